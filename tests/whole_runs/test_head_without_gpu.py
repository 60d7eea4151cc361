"""Models run on the nodes with GPUs, from the search to the scorecard, and never on a head without.

The GPUs are only counted: `device: cpu` keeps the models off them.
"""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from ray import _raylet
from ray._private.state import actors
from ray.cluster_utils import Cluster

from kilobit import launch
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.runs.folder import open_run
from tests.support.models import cached_from_hub
from tests.support.runs import proven_points

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
# The actors that load models: workers, and the members that prove and measure programs.
WITH_MODELS = ("EvaluatorActor", "_Member", "_Follower")
BATTERY = {
    "tasks": [{"task": {"kind": "miniature", "name": "translation"}, "examples": 2}],
    **dict.fromkeys(("perplexity", "game", "safety")),
    "harness": [],
}


@pytest.fixture
def cluster(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """Yield a cluster as in our manifests; only its nodes have the model of the hub."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    _raylet.Config.initialize("")  # type: ignore[attr-defined]
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]
    cached_from_hub(model_folders["llama"], tmp_path / "cache")
    with monkeypatch.context() as of_nodes:
        of_nodes.setenv("HF_HOME", str(tmp_path / "cache"))
        of_nodes.setenv("HF_HUB_OFFLINE", "1")
        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False},
        )
        for _ in range(2):
            made.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)
    yield made
    made.shutdown()


def test_models_run_on_the_nodes_with_gpus_alone(
    cluster: Cluster,
    write_sweep: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_sweep(
        base_models=[{"regime": "small", "hub": "kilobit/small", "device": "cpu"}],
        families={"prompt": {"candidates": 2, "demonstrations": [0]}},
        rungs={"examples": 2, "train_steps": 1, "eta": 2, "count": 1},
        workers={"cpus": 0.5, "gpus": 1, "pack": 1, "per_model": 2},
        certify=True,
    )
    out, battery = tmp_path / "run", tmp_path / "battery.yaml"
    battery.write_text(yaml.safe_dump(BATTERY), "utf-8")
    head = cluster.head_node.node_id
    with_gpus = {node.node_id for node in cluster.worker_nodes}
    seen: dict[str, dict[str, Any]] = {}

    def new() -> dict[str, set[str]]:
        """Return the nodes of the actors since the last call, by their class."""
        found: dict[str, set[str]] = {}
        for name, actor in actors().items():
            if name not in seen and actor["ActorClassName"] in WITH_MODELS:
                found.setdefault(actor["ActorClassName"], set()).add(actor["Address"]["NodeID"])
            seen[name] = actor
        return found

    with ray_session(cluster.address):
        words = ["--address", cluster.address]
        assert launch.main(["run", str(path), "--out", str(out), *words]) == 0, capsys.readouterr()
        searched = new()
        # Two workers at the same time, which have a node each, then what verified and certified.
        assert searched.keys() == {"EvaluatorActor", "_Member"}
        assert searched["EvaluatorActor"] == with_gpus
        assert searched["_Member"] <= with_gpus
        run = open_run(out)
        points = proven_points(run)
        card = ["scorecard", str(out), "--battery", str(battery), *words]
        assert launch.main(card) == 0, capsys.readouterr()
        assert new().keys() == {"_Member"}
        measured = {
            actor["Address"]["NodeID"]
            for actor in seen.values()
            if actor["ActorClassName"] in WITH_MODELS
        }
        assert measured == with_gpus
        assert head not in measured
    lines = pq.read_table(out / "scorecard.parquet").to_pylist()
    assert {line["candidate"] for line in lines} == {point.candidate for point in points}
    assert not any(line["error"] for line in lines)
    # The driver has no model: it could do none of this itself.
    assert launch.main(["scorecard", str(out), "--battery", str(battery)]) == 2
    assert "base model small: " in capsys.readouterr().err
