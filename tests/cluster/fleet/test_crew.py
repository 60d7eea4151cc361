"""What a dead member was doing is done by another; what can't be done ends with a reason.

Of a model on two ranks, the programs are searched, proven and measured, and are those of one rank.
"""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml

from kilobit import launch
from kilobit.cluster.fleet import crew
from kilobit.cluster.fleet.crew import ClusterCrew, Crew, crew_of
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import EvaluatorSetup, PoolError
from kilobit.cluster.runs.folder import RunFolder, create_run, open_run
from kilobit.cluster.sweep.placement import Need
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.cpus_and_memory import cpus
from kilobit.search.records import WorkerRecord
from kilobit.search.settings import InputError
from tests.support.hosts.dying import Worker
from tests.support.rows import rows_of
from tests.support.runs import proven_points

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
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


def one() -> int:
    return 1


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture
def sweep(write_sweep: Callable[..., Path]) -> Sweep:
    return load_sweep(write_sweep(workers={"cpus": 0.2, "wait_s": 3}))


def test_without_a_cluster_it_is_one_object_here(tmp_path: Path, sweep: Sweep) -> None:
    with crew_of(partial(Worker, tmp_path), sweep, 3, None, one) as crew:
        assert type(crew) is Crew
        results = crew.each(lambda number: crew.call("square", number), [1, 2, 3])
        assert list(results) == [(n, (n**2, os.getpid())) for n in (1, 2, 3)]
        assert not (tmp_path / "closed").exists()
    assert (tmp_path / "closed").exists()


def test_what_a_dead_member_was_doing_is_done_again(
    tmp_path: Path, sweep: Sweep, session: None
) -> None:
    with crew_of(partial(Worker, tmp_path), sweep, 2, "auto", one) as crew:
        results = list(crew.each(lambda n: crew.call("square", n, int(n == 3) * 2), [1, 2, 3, 4]))
        assert [(n, found) for n, (found, _) in results] == [(n, n**2) for n in (1, 2, 3, 4)]
        assert os.getpid() not in {pid for _, (_, pid) in results}
        assert {path.name for path in tmp_path.iterdir() if "-" in path.name} == {"3-0", "3-1"}
        with pytest.raises(PoolError, match=r"^5 workers died one after the other: "):
            crew.call("square", 9, 99)
        # The members that replaced them are there.
        assert crew.call("square", 5)[0] == 25
        # A member without its other ranks is replaced as well.
        assert crew.call("lose_a_rank") == "whole"


def test_an_error_of_a_call_reaches_its_caller_as_it_is(
    tmp_path: Path, sweep: Sweep, session: None
) -> None:
    with crew_of(partial(Worker, tmp_path), sweep, 1, "auto", one) as crew:
        with pytest.raises(InputError) as caught:
            crew.call("refuse", "no such model")
        assert str(caught.value) == "no such model"
        assert crew.call("square", 2)[0] == 4


def test_a_cluster_without_room_is_said(tmp_path: Path, sweep: Sweep, session: None) -> None:
    workers = sweep.workers.model_copy(update={"cpus": 1000.0, "wait_s": 0.5})
    big = sweep.model_copy(update={"workers": workers})
    with (
        crew_of(partial(Worker, tmp_path), big, 3, "auto", one) as crew,
        pytest.raises(PoolError, match="no node has 1000 CPUs and 0 GPUs free for the programs"),
    ):
        crew.call("square", 2)


def test_all_ranks_of_a_worker_are_on_one_node(
    tmp_path: Path, write_sweep: Callable[..., Path], session: None
) -> None:
    ranks = load_sweep(write_sweep(workers={"cpus": 0.5, "shards": {"world_size": 2}}))
    with crew_of(partial(Worker, tmp_path), ranks, 9, "auto", one) as crew:
        assert isinstance(crew, ClusterCrew)
        # Of one CPU each, as many as fit.
        assert len(crew._members) == crew._at_once == cpus()
        assert crew.call("square", 2)[0] == 4
        assert {one.bundle_count for one in crew._members.values()} == {1}
    # Or a member is the first of them, with room for the others beside it.
    with crew_of(partial(Worker, tmp_path), ranks, 1, "auto", one, as_ranks=True) as crew:
        assert isinstance(crew, ClusterCrew)
        assert crew.call("square", 2)[0] == 4
        assert {one.bundle_count for one in crew._members.values()} == {2}


def test_a_call_that_is_interrupted_ends(tmp_path: Path, sweep: Sweep, session: None) -> None:
    with crew_of(partial(Worker, tmp_path), sweep, 1, "auto", one) as crew:
        assert crew.call("square", 2)[0] == 4
        taken = crew._next_idle()
        timer = threading.Timer(0.5, crew.interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            crew.call("square", 3)
        assert taken not in crew._members


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


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("layout", "families"),
    [
        pytest.param("auto", SMALL, marks=pytest.mark.slow),
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
        workers={"cpus": 0.9, "shards": {"world_size": 2, "layout": layout}},
        certify=True,
    )
    reserved: list[tuple[float | None, int]] = []
    hire = ClusterCrew._hire

    def hired(crew: ClusterCrew) -> None:
        reserved.append((crew._needs.each.get("CPU"), crew._needs.ranks))
        hire(crew)

    monkeypatch.setattr(ClusterCrew, "_hire", hired)
    out = tmp_path / "run"
    words = ["run", str(path), "--out", str(out), "--address", "auto"]
    assert launch.main(words) == 0, capsys.readouterr()
    run = open_run(out)
    points = proven_points(run)
    assert programs(run) == on_one_rank(run, tmp_path / "alone")
    # One program runs on the resources of all ranks.
    assert set(reserved) == {(1.8, 1)}
    reserved.clear()
    (tmp_path / "held_out.txt").write_text("Two apples.\n\nThree pears.\n", "utf-8")
    battery = tmp_path / "battery.yaml"
    battery.write_text(yaml.safe_dump(BATTERY), "utf-8")
    words = ["scorecard", str(out), "--battery", str(battery), "--address", "auto"]
    assert launch.main(words) == 0, capsys.readouterr()
    # A base model is measured by ranks as it is searched by them.
    assert set(reserved) == {(0.9, 2)}
    lines = pq.read_table(out / "scorecard.parquet").to_pylist()
    assert {line["candidate"] for line in lines} == {point.candidate for point in points}
    assert {line["item"] for line in lines} == {"translation", "text bits/byte"}
    assert not any(line["error"] for line in lines)


def test_as_many_programs_run_at_once_as_cores_and_memory_hold(
    monkeypatch: pytest.MonkeyPatch, sweep: Sweep
) -> None:
    label = sweep.base_models[0].label
    load = WorkerRecord(worker="w", model=label, num_parameters=10**9)
    # In float32 a billion parameters are 4 GB, and 1 GiB is for the passes.
    memory = crew.memory_of(sweep, [load])
    assert memory == 4 * 10**9 + (1 << 30)
    # Quantised ones are as large as they were when they were loaded.
    quantised = replace(load, weight_bytes=10**9 // 2)
    assert crew.memory_of(sweep, [quantised]) == 10**9 // 2 + (1 << 30)
    assert crew.memory_of(sweep, [quantised, load]) == memory
    # A node of 64 cores of which a job has 4 cores, and 16 GB.
    monkeypatch.setattr(crew, "cpus", lambda: 4)
    monkeypatch.setattr(crew, "free_memory", lambda: 16 * 10**9)
    assert crew.at_once(sweep, lambda: memory) == 3
    assert crew.at_once(sweep, lambda: crew.memory_of(sweep, [])) == 4
    assert crew.at_once(sweep, lambda: 10**12) == 1
    two = sweep.model_copy(update={"workers": sweep.workers.model_copy(update={"threads": 2})})
    assert crew.at_once(two, lambda: memory) == 2


def test_members_on_a_cluster_need_memory_too(session: None) -> None:
    need = Need("llama-0", "llama", {"CPU": 0.01})
    assert crew._room(need, 0) == 100 * cpus()
    there = ray.nodes()[0]["Resources"]["memory"]
    assert crew._room(need, int(there / 2.5)) == 2
