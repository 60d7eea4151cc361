"""Programs are proven where their models are, by a driver that has none; deaths cost no proof."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from kilobit import launch
from kilobit.cluster.fleet.crew import ClusterCrew
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.runs.folder import open_run
from tests.support.models import cached_from_hub
from tests.support.rows import rows_of
from tests.support.runs import proven_points

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
Write = Callable[..., Path]
PROMPTS = {"prompt": {"candidates": 3, "demonstrations": [0, 1]}}


@pytest.fixture
def hub(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Yield the name of a model of the hub that the nodes have, and this process has not."""
    name = cached_from_hub(model_folders["llama"], tmp_path / "cache")
    with monkeypatch.context() as of_nodes:
        of_nodes.setenv("HF_HOME", str(tmp_path / "cache"))
        of_nodes.setenv("HF_HUB_OFFLINE", "1")
        session = ray_session()
        session.__enter__()
    yield name
    session.__exit__(None, None, None)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Kill the first busy member of each crew in the middle of its call; return the killed."""
    killed: list[Any] = []
    crews: set[int] = set()
    real = ClusterCrew._next_idle

    def next_idle(crew: ClusterCrew) -> Any:
        member = real(crew)
        if id(crew) not in crews:
            crews.add(id(crew))
            killed.append(member)
            threading.Timer(1.0, ray.kill, [member]).start()
        return member

    monkeypatch.setattr(ClusterCrew, "_next_idle", next_idle)
    return killed


def test_a_driver_without_the_model_ends_with_all_proofs_though_nodes_die(
    write_sweep: Write,
    hub: str,
    killed: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_sweep(
        base_models=[{"regime": "small", "hub": hub}],
        families=PROMPTS,
        rungs={"examples": 4, "train_steps": 1, "eta": 2, "count": 1},
        certify=True,
    )
    out = tmp_path / "run"
    assert launch.main(["run", str(path), "--out", str(out), "--dry-run", "--address", "auto"]) == 0
    assert "kilobit/small is not on this machine" in capsys.readouterr().out
    status = launch.main(["run", str(path), "--out", str(out), "--address", "auto"])
    shown = capsys.readouterr()
    assert status == 0, shown
    run = open_run(out)
    proven_points(run)
    # One crew verified and one certified, and a member of each died.
    assert len(killed) == 2
    assert len(rows_of(run.ledger, "openings")) == 1
    # This process could not do it.
    assert launch.main(["verify", str(out)]) == 2
    assert "base model small: " in capsys.readouterr().err
