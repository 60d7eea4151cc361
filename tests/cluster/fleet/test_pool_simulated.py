"""A pool asks a simulated Ray for what its plan says, while nodes come and leave and models end."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kilobit.cluster.fleet import pool
from kilobit.cluster.fleet.pool import Pool
from kilobit.cluster.messages import PoolError, Worker
from kilobit.cluster.sweep.workers import ModelWorkers, Workers

EIGHT = {"CPU": 8.0, "GPU": 8.0}


class Thing(SimpleNamespace):
    """An object with some attributes, equal to itself alone."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class FakeRay:
    """Places groups in the order of requests, first on the node that they ask for."""

    def __init__(self) -> None:
        self.there: dict[str, Mapping[str, float]] = {}
        self.groups: list[Any] = []
        self.actors: dict[str, Any] = {}
        self.killed: list[str] = []
        self.restarts: list[str] = []
        self.stopped: set[str] = set()
        self.unloadable: set[str] = set()
        self.exceptions = Thing(RayError=RuntimeError)

    def placement_group(
        self,
        bundles: list[dict[str, float]],
        strategy: str,
        _soft_target_node_id: str | None = None,
        bundle_label_selector: Any = None,
    ) -> Any:
        name = f"{len(self.groups)}{time.monotonic_ns()}"
        group = Thing(id=Thing(hex=lambda: name), bundles=bundles, on=None)
        group.strategy, group.target = strategy, _soft_target_node_id
        self.groups.append(group)
        return group

    def placement_group_table(self) -> dict[str, Any]:
        for group in self.groups:
            if group.on not in self.there:
                group.on = next((n for n in [group.target, *self.there] if self._fits(group, n)), 0)
        return {
            group.id.hex(): {
                "state": "CREATED" if group.on else "PENDING",
                "bundles_to_node_id": dict.fromkeys(range(len(group.bundles)), group.on),
            }
            for group in self.groups
        }

    def _fits(self, group: Any, node: str) -> bool:
        if node not in self.there:
            return False
        inside = [one for one in self.groups if one.on == node] + [group]
        total = {name: sum(b[name] for g in inside for b in g.bundles) for name in EIGHT}
        return all(total[name] <= self.there[node][name] for name in EIGHT)

    def remote(self, **_: Any) -> Any:
        make = Thing(remote=self._start)
        return lambda _: Thing(options=lambda **_: make)

    def _start(self, setup: Any) -> Any:
        actor = Thing(name=setup.worker, model=setup.model, group=setup.placement)
        actor.ready = Thing(remote=lambda: Thing(actor=actor))
        # A call that an earlier process was asked fails.
        beat = Thing(remote=lambda: Thing(actor=actor, process=self.restarts.count(actor.name)))
        actor.beat = Thing(options=lambda **_: beat)
        assert setup.worker not in self.actors
        self.actors[setup.worker] = actor
        return actor

    def kill(self, actor: Any, no_restart: bool = True) -> None:
        if not no_restart:
            self.restarts.append(actor.name)
            return
        self.killed.append(actor.name)
        del self.actors[actor.name]

    def wait(self, refs: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        def answers(ref: Any) -> bool:
            earlier = getattr(ref, "process", None) not in (
                None,
                self.restarts.count(ref.actor.name),
            )
            return ref.actor.group.on and (earlier or ref.actor.name not in self.stopped)

        return [ref for ref in refs if answers(ref)], []

    def get(self, ref: Any) -> None:
        if getattr(ref, "process", None) not in (None, self.restarts.count(ref.actor.name)):
            raise RuntimeError("its process died")
        if ref.actor.model in self.unloadable:
            raise RuntimeError("no file")

    def cluster_resources(self) -> dict[str, float]:
        return {name: sum(node[name] for node in self.there.values()) for name in EIGHT}

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Resources": node, "Labels": {}, "Alive": True}
            for name, node in self.there.items()
        ]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(pool, "ray", fake)
    monkeypatch.setattr(pool, "placement_group", fake.placement_group)
    monkeypatch.setattr(pool, "placement_group_table", fake.placement_group_table)
    monkeypatch.setattr(pool, "remove_placement_group", fake.groups.remove)
    monkeypatch.setattr(pool, "PlacementGroupSchedulingStrategy", lambda **_: None)
    monkeypatch.setattr(pool, "_LOOK_EVERY_S", 0.0)
    return fake


@pytest.fixture
def make(ray: FakeRay) -> Callable[..., Pool]:
    def made(
        num_nodes: int, common: Mapping[str, Any], *, local: bool = False, **models: Any
    ) -> Pool:
        ray.there.update({f"n{at}": EIGHT for at in range(num_nodes)})
        base = Workers.model_validate({"cpus": 0.2, **common})
        own = {m: base.over(ModelWorkers.model_validate(given)) for m, given in models.items()}
        sweep: Any = Thing(workers=base, workers_by_model=own, model_dump_json=lambda: "{}")
        return Pool(sweep, Path(), Path("run"), 1, local=local)

    return made


def names(one: Pool) -> set[str]:
    return {worker.name for worker in one.here()}


def begin(one: Pool) -> set[str]:
    one.wait_for_enough(lambda *_: None, sleep=lambda _: None)
    return names(one)


def worker(one: Pool, name: str) -> Worker:
    return next(worker for worker in one.workers if worker.name == name)


def test_the_fewest_of_all_models_have_places_before_more_of_any(
    ray: FakeRay, make: Callable[..., Pool]
) -> None:
    few = {"per_model": 2, "min_per_model": 1, "gpus": 8}
    one = make(3, few, a={}, b={}, c={}, d={})
    assert begin(one) == {"a-0", "b-0", "c-0"}
    assert set(ray.actors) == {"a-0", "b-0", "c-0", "d-0"}
    assert one.release(worker(one, "b-0"))
    assert names(one) == {"a-0", "c-0", "d-0"}
    # All have a worker. More are asked for, for which nodes may come.
    names(one)
    assert {"a-1", "c-1", "d-1"} <= ray.actors.keys()
    assert "b-1" not in ray.actors
    assert not one.release(worker(one, "a-0"))
    # A node leaves: its worker is not ended, and others no longer wait for the same place.
    del ray.there[one._held["c-0"][0]]
    assert names(one) == {"a-0", "d-0"}
    names(one)
    assert set(ray.actors) == {"a-0", "c-0", "d-0"}
    assert "c-0" not in ray.killed
    ray.there["new"] = EIGHT
    assert names(one) == {"a-0", "c-0", "d-0"}
    one.stop()
    assert (ray.actors, ray.groups) == ({}, [])


def test_on_this_machine_what_waits_for_its_turn_is_not_asked_for(
    ray: FakeRay, make: Callable[..., Pool]
) -> None:
    one = make(1, {"gpus": 8}, local=True, a={}, b={})
    assert begin(one) == {"a-0"}
    assert set(ray.actors) == {"a-0"}
    assert one.release(worker(one, "a-0"))
    assert names(one) == {"b-0"}


def test_a_model_that_can_not_be_loaded_in_its_turn_is_named(
    ray: FakeRay, make: Callable[..., Pool]
) -> None:
    one = make(1, {"gpus": 8}, a={}, b={})
    ray.unloadable.add("b")
    assert begin(one) == {"a-0"}
    one.release(worker(one, "a-0"))
    with pytest.raises(PoolError, match="worker b-0 could not load b: no file"):
        names(one)


def test_a_model_without_room_when_its_turn_comes_is_named(make: Callable[..., Pool]) -> None:
    one = make(1, {"gpus": 8, "wait_s": 0.0}, a={}, b={"gpus": 16})
    one.wait_for_enough(lambda *_: None, clock=lambda: 0.0, sleep=lambda _: None)
    one.release(worker(one, "a-0"))
    names(one)
    with pytest.raises(PoolError, match=r"1 of 2 workers are pending \(of b with .* 16 GPUs"):
        names(one)


def test_a_group_is_asked_for_again_when_the_nodes_show_that_it_needs_several(
    ray: FakeRay, make: Callable[..., Pool]
) -> None:
    one = make(0, {"gpus": 1}, g={"shards": {"world_size": 12}})
    assert [group.strategy for group in ray.groups] == ["STRICT_PACK"]
    ray.there.update(x=EIGHT, y=EIGHT)
    names(one)
    (group,) = ray.groups
    assert group.strategy == "STRICT_SPREAD"
    assert [bundle["GPU"] for bundle in group.bundles] == [6, 6]


class Watched:
    """A pool that is watched by a clock of its own."""

    def __init__(self, one: Pool) -> None:
        self.pool, self.now, self.told = one, 0.0, list[str]()

    def after(self, *steps_s: float) -> None:
        for step_s in steps_s:
            self.now += step_s
            self.pool.watch(self.told.append, clock=lambda: self.now)


def test_a_worker_that_stands_still_is_started_again_and_no_other(
    ray: FakeRay, make: Callable[..., Pool]
) -> None:
    one = make(2, {"gpus": 8, "silent_s": 10}, a={}, b={})
    begin(one)
    watched = Watched(one)
    watched.after(1, 1, 1)
    ray.stopped.add("a-0")
    # The first look after the last beat asks for the next.
    watched.after(*[1] * 10)
    assert (ray.restarts, watched.told) == ([], [])
    watched.after(1, 1)
    assert ray.restarts == ["a-0"]
    assert watched.told == [
        "worker a-0 stood still for 11 s (workers.silent_s): it is killed and started again"
    ]
    # Its model loads for longer than that. From then on it is watched as before.
    watched.after(*[4] * 10)
    ray.stopped.clear()
    watched.after(1, 1, 1)
    ray.stopped.add("a-0")
    watched.after(*[1] * 10)
    assert ray.restarts == ["a-0"]
    watched.after(1, 1)
    assert ray.restarts == ["a-0", "a-0"]


def test_a_worker_that_died_by_itself_is_given_the_time_to_load_its_model(
    ray: FakeRay, make: Callable[..., Pool]
) -> None:
    one = make(1, {"gpus": 8, "silent_s": 10}, a={})
    begin(one)
    watched = Watched(one)
    watched.after(1, 1)
    ray.restarts.append("a-0")
    ray.stopped.add("a-0")
    watched.after(*[4] * 10)
    assert (ray.restarts, watched.told) == (["a-0"], [])


def test_a_driver_that_stood_still_itself_kills_no_worker(
    ray: FakeRay, make: Callable[..., Pool]
) -> None:
    one = make(1, {"gpus": 8, "silent_s": 10}, a={})
    begin(one)
    watched = Watched(one)
    watched.after(1, 1)
    # The machine was asleep. The answer comes a moment after it woke up.
    ray.stopped.add("a-0")
    watched.after(3600)
    ray.stopped.clear()
    watched.after(1, 1)
    assert (ray.restarts, watched.told) == ([], [])
