"""A shard group answers as one, ends as one, and leaves nothing behind."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.util import placement_group_table

from kilobit.cluster.sweep.workers import ShardsConfig
from tests.support.shards.residents import Plain

pytestmark = [pytest.mark.ray]
# Long enough for a busy machine to start a rank, short enough for a test to wait for.
TIMEOUT_S = 15.0
DEADLINE_S = 30.0


def shards(world_size: int = 2, timeout_s: float = TIMEOUT_S) -> ShardsConfig:
    return ShardsConfig(world_size=world_size, cpus_per_rank=0.1, timeout_s=timeout_s)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rooms() -> int:
    return sum(room["state"] != "REMOVED" for room in placement_group_table().values())


def test_group_answers_as_one_ends_as_one_and_begins_again(
    make_caller: Callable[..., Any],
) -> None:
    caller = make_caller()
    shared_before = set(Path("/dev/shm").iterdir())
    ray.get(caller.start.remote(shards(), Plain))
    pids = ray.get(caller.call.remote("pids"))
    assert len(set(pids)) == 2
    # All ranks raise the same: that is the method's error, and the group stays.
    kind, _, text, _ = ray.get(caller.try_call.remote("fail", [0, 1]))
    assert (kind, text) == ("ValueError", "no such word")
    assert ray.get(caller.call.remote("pids")) == pids
    assert rooms() == 1
    # A rank dies in the middle of a call.
    kind, rank, text, seconds = ray.get(caller.try_call.remote("die", 1))
    assert (kind, rank) == ("GroupError", 1)
    assert "rank 1 of the shard group failed in `die`" in text
    assert seconds < TIMEOUT_S / 2
    wait_until(lambda: not psutil.pid_exists(pids[1]))
    assert ray.get(caller.try_call.remote("pids"))[0] == "ValueError"
    # The same process is rank 0 of a new group.
    ray.get(caller.start.remote(shards(), Plain))
    again = ray.get(caller.call.remote("pids"))
    assert again[0] == pids[0]
    assert again[1] != pids[1]
    ray.get(caller.stop.remote())
    wait_until(lambda: not psutil.pid_exists(again[1]))
    wait_until(lambda: rooms() == 0)
    assert {
        path for path in Path("/dev/shm").iterdir() if "nccl" in path.name or "gloo" in path.name
    } <= shared_before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "argument", "blamed"), [("fail", [1], 1), ("fail", [0], 0), ("die", 1, 1)]
)
def test_failure_names_the_rank_that_it_began_with(
    make_caller: Callable[..., Any], method: str, argument: Any, blamed: int
) -> None:
    caller = make_caller()
    ray.get(caller.start.remote(shards(), Plain))
    kind, rank, text, seconds = ray.get(caller.try_call.remote(method, argument))
    assert (kind, rank) == ("GroupError", blamed)
    assert ("no such word" in text) is (method == "fail")
    assert seconds < TIMEOUT_S


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "argument", "blamed"),
    [("reduce", [2, 3], 1), ("reduce", [3, 2], 0), ("sleep", 1, 1)],
)
def test_ranks_out_of_step_end_within_the_timeout(
    make_caller: Callable[..., Any], method: str, argument: Any, blamed: int
) -> None:
    caller = make_caller()
    ray.get(caller.start.remote(shards(timeout_s=TIMEOUT_S), Plain))
    kind, rank, _, seconds = ray.get(caller.try_call.remote(method, argument))
    assert (kind, rank) == ("GroupError", blamed)
    assert seconds < 2 * TIMEOUT_S


def test_factory_that_fails_everywhere_raises_its_own_error(
    make_caller: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="can't be here"):
        ray.get(make_caller().start.remote(shards(), _refuse))


def test_too_little_room_is_an_error_and_no_wait_without_end(
    make_caller: Callable[..., Any],
) -> None:
    config = ShardsConfig(world_size=2, cpus_per_rank=10_000, timeout_s=1)
    with pytest.raises(RuntimeError, match="not all of 2 ranks started"):
        ray.get(make_caller().start.remote(config, Plain))


def _refuse(place: Any) -> None:
    raise ValueError("can't be here")
