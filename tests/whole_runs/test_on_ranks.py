"""A model on two ranks is searched, proven and measured; its programs are those of one rank."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from kilobit import launch
from kilobit.cluster.fleet.crew import ClusterCrew
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.runs.folder import RunFolder, create_run, open_run
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.worker.evaluator import RungEvaluator
from tests.support.rows import rows_of
from tests.support.runs import proven_points

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
# One program of the smallest kind, for the tests that always run.
SMALL = {"prompt": {"candidates": 1, "demonstrations": [0]}}
FAMILIES = {
    "prompt": {"candidates": 2, "demonstrations": [0, 1]},
    "lora": {
        "candidates": 1,
        "rank": [1],
        "target_modules": [["q_proj"]],
        "steps": [2],
        "batch_size": 2,
    },
}
BATTERY = {
    "tasks": [{"task": {"kind": "miniature", "name": "translation"}, "examples": 4}],
    "perplexity": {"file": "held_out.txt"},
    "game": None,
    "safety": None,
    "harness": [],
}


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


def programs(run: RunFolder) -> dict[tuple[str, int], Any]:
    rows = rows_of(run.ledger, "programs")
    return {(row["candidate"], row["rung"]): (row["script"], row["payload"]) for row in rows}


def on_one_rank(run: RunFolder, folder: Path) -> dict[tuple[str, int], Any]:
    """Return the programs of the candidates of a run, searched by one rank in this process."""
    workers = run.sweep.workers.model_copy(update={"shards": ShardsConfig()})
    sweep = run.sweep.model_copy(update={"workers": workers})
    with create_run(sweep, run.sweep_folder / "sweep.yaml", folder):
        setup = EvaluatorSetup(
            sweep.model_dump_json(), str(run.sweep_folder), str(folder), "llama", "llama-0", 1
        )
    evaluator, (rung,) = RungEvaluator(setup), sweep.rungs.ladder()
    for row in rows_of(run.ledger, "candidates"):
        assert evaluator.run_rung(row["spec"], rung).record.error is None
    return programs(open_run(folder))


@pytest.mark.parametrize(
    ("layout", "families"),
    [
        ("auto", SMALL),
        pytest.param("tensor", FAMILIES, marks=pytest.mark.slow),
        pytest.param("zero3", FAMILIES, marks=pytest.mark.slow),
    ],
)
def test_a_model_on_two_ranks_is_searched_proven_and_measured(
    layout: str,
    families: dict[str, Any],
    write_sweep: Callable[..., Path],
    tmp_path: Path,
    session: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_sweep(
        families=families,
        rungs={"examples": 4, "train_steps": 2, "eta": 2, "count": 1},
        workers={"cpus": 0.5, "shards": {"world_size": 2, "layout": layout}},
        certify=True,
    )
    reserved: list[tuple[float | None, int]] = []
    hire = ClusterCrew._hire

    def hired(crew: ClusterCrew) -> None:
        reserved.append((crew._needs.cpus_per_rank, crew._needs.world_size))
        hire(crew)

    monkeypatch.setattr(ClusterCrew, "_hire", hired)
    out = tmp_path / "run"
    words = ["run", str(path), "--out", str(out), "--address", "auto"]
    assert launch.main(words) == 0, capsys.readouterr()
    run = open_run(out)
    points = proven_points(run)
    assert programs(run) == on_one_rank(run, tmp_path / "alone")
    # One program runs on the resources of all ranks.
    assert set(reserved) == {(1.0, 1)}
    reserved.clear()
    (tmp_path / "held_out.txt").write_text("Two apples.\n\nThree pears.\n", "utf-8")
    battery = tmp_path / "battery.yaml"
    battery.write_text(yaml.safe_dump(BATTERY), "utf-8")
    words = ["scorecard", str(out), "--battery", str(battery), "--address", "auto"]
    assert launch.main(words) == 0, capsys.readouterr()
    # A base model is measured by ranks as it is searched by them.
    assert set(reserved) == {(0.5, 2)}
    lines = pq.read_table(out / "scorecard.parquet").to_pylist()
    assert {line["candidate"] for line in lines} == {point.candidate for point in points}
    assert {line["item"] for line in lines} == {"translation", "text bits/byte"}
    assert not any(line["error"] for line in lines)
