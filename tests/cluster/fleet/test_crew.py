"""What a dead member was doing is done by another; what can't be done ends with a reason."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from kilobit.cluster.fleet import crew
from kilobit.cluster.fleet.crew import ClusterCrew, Crew, crew_of
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import PoolError
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.cpus_and_memory import cpus
from kilobit.search.settings import InputError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


class Worker:
    """Object of a member, in a process that may die."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def square(self, number: int, deaths: int = 0) -> tuple[int, int]:
        for death in range(deaths):
            died = self._folder / f"{number}-{death}"
            if not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return number**2, os.getpid()

    def refuse(self, text: str) -> None:
        raise InputError(text)

    def close(self) -> None:
        (self._folder / "closed").touch()


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture
def sweep(write_sweep: Callable[..., Path]) -> Sweep:
    return load_sweep(write_sweep(workers={"cpus": 0.2, "wait_s": 3}))


def test_without_a_cluster_it_is_one_object_here(tmp_path: Path, sweep: Sweep) -> None:
    with crew_of(partial(Worker, tmp_path), sweep, 3, None, 1) as crew:
        assert type(crew) is Crew
        results = crew.each(lambda number: crew.call("square", number), [1, 2, 3])
        assert list(results) == [(n, (n**2, os.getpid())) for n in (1, 2, 3)]
        assert not (tmp_path / "closed").exists()
    assert (tmp_path / "closed").exists()


def test_what_a_dead_member_was_doing_is_done_again(
    tmp_path: Path, sweep: Sweep, session: None
) -> None:
    with crew_of(partial(Worker, tmp_path), sweep, 2, "auto", 1) as crew:
        results = list(crew.each(lambda n: crew.call("square", n, int(n == 3) * 2), [1, 2, 3, 4]))
        assert [(n, found) for n, (found, _) in results] == [(n, n**2) for n in (1, 2, 3, 4)]
        assert os.getpid() not in {pid for _, (_, pid) in results}
        assert {path.name for path in tmp_path.iterdir() if "-" in path.name} == {"3-0", "3-1"}
        with pytest.raises(PoolError, match=r"^5 workers died one after the other: "):
            crew.call("square", 9, 99)
        # The members that replaced them are there.
        assert crew.call("square", 5)[0] == 25


def test_an_error_of_a_call_reaches_its_caller_as_it_is(
    tmp_path: Path, sweep: Sweep, session: None
) -> None:
    with crew_of(partial(Worker, tmp_path), sweep, 1, "auto", 1) as crew:
        with pytest.raises(InputError) as caught:
            crew.call("refuse", "no such model")
        assert str(caught.value) == "no such model"
        assert crew.call("square", 2)[0] == 4


def test_a_cluster_without_room_is_said(tmp_path: Path, sweep: Sweep, session: None) -> None:
    workers = sweep.workers.model_copy(update={"cpus": 1000.0, "wait_s": 0.5})
    big = sweep.model_copy(update={"workers": workers})
    with (
        crew_of(partial(Worker, tmp_path), big, 3, "auto", 1) as crew,
        pytest.raises(PoolError, match="no node has 1000 CPUs and 0 GPUs free for the programs"),
    ):
        crew.call("square", 2)


def test_all_ranks_of_a_worker_are_on_one_node(
    tmp_path: Path, write_sweep: Callable[..., Path], session: None
) -> None:
    ranks = load_sweep(write_sweep(workers={"cpus": 0.5, "shards": {"world_size": 2}}))
    with crew_of(partial(Worker, tmp_path), ranks, 9, "auto", 1) as crew:
        assert isinstance(crew, ClusterCrew)
        # Of one CPU each, as many as fit.
        assert len(crew._members) == crew._at_once == cpus()
        assert crew.call("square", 2)[0] == 4


def test_a_call_that_is_interrupted_ends(tmp_path: Path, sweep: Sweep, session: None) -> None:
    with crew_of(partial(Worker, tmp_path), sweep, 1, "auto", 1) as crew:
        assert crew.call("square", 2)[0] == 4
        taken = crew._next_idle()
        timer = threading.Timer(0.5, crew.interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            crew.call("square", 3)
        assert taken not in crew._members


def test_as_many_programs_run_at_once_as_cores_and_memory_hold(
    monkeypatch: pytest.MonkeyPatch, sweep: Sweep
) -> None:
    label = sweep.base_models[0].label
    # In float32 a billion parameters are 4 GB, and 1 GiB is for the passes.
    memory = crew.memory_of(sweep, {label: 10**9})
    assert memory == 4 * 10**9 + (1 << 30)
    # A node of 64 cores of which a job has 4 cores, and 16 GB.
    monkeypatch.setattr(crew, "cpus", lambda: 4)
    monkeypatch.setattr(crew, "free_memory", lambda: 16 * 10**9)
    assert crew.at_once(sweep, memory) == 3
    assert crew.at_once(sweep, crew.memory_of(sweep, {})) == 4
    assert crew.at_once(sweep, 10**12) == 1
    two = sweep.model_copy(update={"workers": sweep.workers.model_copy(update={"threads": 2})})
    assert crew.at_once(two, memory) == 2


def test_members_on_a_cluster_need_memory_too(sweep: Sweep, session: None) -> None:
    needs = sweep.workers.ranks(0.01)
    assert crew._room(needs, 0) == 100 * cpus()
    there = ray.nodes()[0]["Resources"]["memory"]
    assert crew._room(needs, int(there / 2.5)) == 2
