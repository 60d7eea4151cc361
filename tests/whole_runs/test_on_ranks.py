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
from kilobit.cluster.runs.folder import open_run
from tests.support.rows import rows_of
from tests.support.runs import proven_points

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
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
    "perplexity": None,
    "game": None,
    "safety": None,
    "harness": [],
}


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


def programs(out: Path) -> dict[tuple[str, int], Any]:
    rows = rows_of(open_run(out).ledger, "programs")
    return {(row["candidate"], row["rung"]): (row["script"], row["payload"]) for row in rows}


@pytest.mark.parametrize("layout", ["tensor", "zero3"])
def test_a_model_on_two_ranks_is_searched_proven_and_measured(
    layout: str,
    write_sweep: Callable[..., Path],
    tmp_path: Path,
    session: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_sweep(
        families=FAMILIES,
        rungs={"examples": 4, "train_steps": 2, "eta": 2, "count": 1},
        certify=True,
    )
    reserved: list[float] = []
    hire = ClusterCrew._hire

    def hired(crew: ClusterCrew) -> None:
        reserved.append(crew._needs.cpus_per_rank or 0)
        hire(crew)

    monkeypatch.setattr(ClusterCrew, "_hire", hired)
    out = {ranks: tmp_path / f"ranks-{ranks}" for ranks in (1, 2)}
    on_two = ["workers.shards.world_size=2", f"workers.shards.layout={layout}"]
    for ranks, more in ((1, []), (2, on_two)):
        words = ["run", str(path), "workers.cpus=0.5", *more, "--out", str(out[ranks])]
        assert launch.main([*words, "--address", "auto"]) == 0, capsys.readouterr()
    assert programs(out[2]) == programs(out[1])
    run = open_run(out[2])
    points = proven_points(run)
    # One program runs on the resources of all ranks.
    assert set(reserved) == {0.5, 1.0}
    battery = tmp_path / "battery.yaml"
    battery.write_text(yaml.safe_dump(BATTERY), "utf-8")
    words = ["scorecard", str(run.path), "--battery", str(battery), "--address", "auto"]
    assert launch.main(words) == 0, capsys.readouterr()
    lines = pq.read_table(run.path / "scorecard.parquet").to_pylist()
    assert {line["candidate"] for line in lines} == {point.candidate for point in points}
    assert not any(line["error"] for line in lines)
