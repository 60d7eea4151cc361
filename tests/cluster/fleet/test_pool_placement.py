"""Bundles that are requested, which of them are there, and workers on a cluster of fake GPUs."""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import _raylet
from ray.cluster_utils import Cluster

from kilobit.cluster.driver import trial
from kilobit.cluster.driver.trial import is_placed
from kilobit.cluster.fleet import pool
from kilobit.cluster.fleet.pool import Pool, placed, request_placement
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import EvaluatorSetup, Notice, PoolError, Worker
from kilobit.cluster.sweep.placement import Need
from kilobit.cluster.sweep.sweep import load_sweep

DEADLINE_S = 60.0


def test_ranks_have_a_bundle_each_on_one_node_or_one_for_all_of_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def placement_group(bundles: list[dict[str, float]], strategy: str, **more: Any) -> None:
        asked.append((bundles, strategy, *more.values()))

    monkeypatch.setattr(pool, "placement_group", placement_group)
    each = {"CPU": 3.0, "GPU": 1.0}
    request_placement(Need("m-0", "m", each, 2), (2,), "ab")
    request_placement(Need("m-0", "m", each, 2, spans=True, labels={"rack": "a"}), (2,), "ab")
    request_placement(Need("m-0", "m", each, 12), (8, 4), "ab")
    assert asked == [
        ([each] * 2, "STRICT_PACK", "ab", None),
        ([each] * 2, "PACK", None, [{"rack": "a"}] * 2),
        ([{"CPU": 24, "GPU": 8}, {"CPU": 12, "GPU": 4}], "STRICT_SPREAD", None, None),
    ]


def test_only_groups_that_ray_has_created_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {"ab" * 18: "CREATED", "cd" * 18: "RESCHEDULING", "ef" * 18: "PENDING"}

    def table(group: Any = None) -> dict[str, Any]:
        if group is None:
            on = {"bundles_to_node_id": {0: "n0", 1: "n1"}}
            return {name: {"state": state, **on} for name, state in ids.items()}
        return {"state": ids.get(group.id.hex())}

    for module in (pool, trial):
        monkeypatch.setattr(module, "placement_group_table", table)
    assert placed() == {"ab" * 18: ["n0", "n1"]}
    assert [is_placed(name) for name in ids] == [True, False, False]
    assert not is_placed("01" * 18)


class Holding:
    """An actor in the place of a worker's: it holds its place and nothing else."""

    def __init__(self, setup: EvaluatorSetup) -> None:
        self._model = setup.model

    def ready(self) -> str:
        return self._model

    def hear(self, notice: Notice) -> None:
        pass

    def dismiss(self) -> None:
        pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a cluster of a head and three nodes with fake GPUs, on which workers hold nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "EvaluatorActor", Holding)
        patch.setattr(pool, "_LOOK_EVERY_S", 0.2)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        _raylet.Config.initialize("")
        _raylet.AuthenticationTokenLoader.instance().reset_cache()
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0})
        for _ in range(3):
            made.add_node(num_cpus=2, num_gpus=8)
        with ray_session(made.address):
            yield made
        made.shutdown()


@pytest.fixture
def make_pool(
    cluster: Cluster, write_sweep: Callable[..., Path], tmp_path: Path
) -> Iterator[Callable[..., Pool]]:
    """Return a function that makes a pool for models with some settings of workers."""
    pools: list[Pool] = []
    (model,) = load_sweep(write_sweep()).base_models

    def make(workers: dict[str, Any], *names: str) -> Pool:
        models = [{**model.model_dump(mode="json"), "name": name} for name in names]
        common = {"cpus": 0.2, "wait_s": 30, **workers}
        sweep = load_sweep(write_sweep(workers=common, base_models=models))
        pools.append(Pool(sweep, tmp_path, tmp_path / "run", 1, local=False))
        return pools[-1]

    yield make
    for one in pools:
        one.stop()


def wait_for(one: Pool, names: set[str]) -> dict[str, str]:
    """Wait until these workers are ready, and no others, and return the node of each."""
    deadline = time.monotonic() + DEADLINE_S
    while {worker.name for worker in one.here()} != names:
        assert time.monotonic() < deadline, one.here()
        time.sleep(0.1)
    return {name: on[0] for name, on in one._held.items()}


def wait_for_number(one: Pool, number: int) -> set[str]:
    """Wait until so many workers are ready, and return their names."""
    deadline = time.monotonic() + DEADLINE_S
    while len(found := {worker.name for worker in one.here()}) != number:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def worker(one: Pool, name: str) -> Worker:
    return next(worker for worker in one.workers if worker.name == name)


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_small_workers_leave_nodes_whole_and_what_finds_none_says_what_it_needs(
    make_pool: Callable[..., Pool],
) -> None:
    small = make_pool({"per_model": 4, "gpus": 1}, "s")
    small.wait_for_enough(lambda *_: None)
    on = wait_for(small, {f"s-{n}" for n in range(4)})
    assert len(set(on.values())) == 1
    # The plan counts whole nodes; Ray knows what others use of them.
    large = make_pool({"per_model": 2, "gpus": 8}, "l")
    large.wait_for_enough(lambda *_: None)
    assert len(set(large._held.values())) == 2
    last = make_pool({"gpus": 8, "wait_s": 1}, "last")
    match = r"after 1 s: 1 of 1 workers are pending \(of last with 0.2 CPUs and 8 GPUs; the"
    with pytest.raises(PoolError, match=match):
        last.wait_for_enough(lambda *_: None)


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_models_take_turns_and_the_fewest_of_all_come_first(
    cluster: Cluster, make_pool: Callable[..., Pool]
) -> None:
    one = make_pool({"per_model": 2, "min_per_model": 1, "gpus": 8}, "a", "b", "c", "d")
    # Three of four models fit, usually the first; none has a second worker before the fourth has
    # its first.
    one.wait_for_enough(lambda *_: None)
    first = wait_for_number(one, 3)
    (last,) = {"a-0", "b-0", "c-0", "d-0"} - first
    done, moved, kept = sorted(first)
    assert one.release(worker(one, done))
    on = wait_for(one, {moved, kept, last})
    assert not one.release(worker(one, kept))
    # A worker whose node leaves waits, and takes a place that another model's worker leaves.
    cluster.remove_node(next(n for n in cluster.list_all_nodes() if n.node_id == on[moved]))
    wait_for(one, {kept, last})
    assert one.release(worker(one, last))
    wait_for(one, {kept, moved})
