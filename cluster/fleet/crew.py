"""A crew: objects of one class that answer calls of the driver, for work on finished programs.

On a cluster each member is a Ray actor with the resources of a worker: all of them on one node, or
as the first rank of a worker, which starts the other ranks in its placement group. A member is
asked once it is placed; what a member was doing that dies is done again by another, and a new one
takes its place. Without a cluster a crew is one object in this process.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from kilobit.cluster.messages import PoolError, check_versions, last_line, library_versions
from kilobit.cluster.sweep.placement import Need, largest, needs_of
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.cpus_and_memory import cpus, free_memory
from kilobit.evaluators.proof.sandbox import interrupt_running
from kilobit.search.records import WorkerRecord

Item = TypeVar("Item")
Result = TypeVar("Result")
_LOOK_EVERY_S = 1.0
# Members that die during the same call before it is given up, besides those that were idle.
_MOST_DEATHS = 3
# Memory of a program's process besides the weights: libraries, passes, cache of keys and values.
_WORKING = 1 << 30
# Columns of a load that tell the size of its weights.
SIZE_COLUMNS = ("worker", "model", "num_parameters", "weight_bytes")


class Closable(Protocol):
    """An object that a crew is made of."""

    def close(self) -> None:
        """Free what it holds; no call follows."""


class Crew:
    """A crew of one object in this process; see the module's docstring.

    Args:
        make: makes the object.
        at_once: returns the number of calls that it answers at once.
    """

    def __init__(self, make: Callable[[], Closable], at_once: Callable[[], int]) -> None:
        self._own, self._most = make(), at_once

    def call(self, method: str, *args: Any) -> Any:
        """Return the answer of a method; to be called from several threads."""
        return getattr(self._own, method)(*args)

    def each(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Run `work`, which makes calls, on items, as many at once as the crew can answer.

        Results come in the order of the items.
        """
        most = self._most()
        if most == 1:
            yield from zip(items, map(work, items), strict=True)
            return
        with ThreadPoolExecutor(max_workers=most) as pool:
            try:
                yield from zip(items, pool.map(work, items), strict=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.interrupt()
                raise

    def interrupt(self) -> None:
        """End the calls that threads wait for."""
        interrupt_running()

    def stop(self) -> None:
        """Free what the crew holds."""
        self._own.close()


class _Member:
    """Actor of a member; its object is made by the first call, whose errors reach the driver."""

    def __init__(self, make: Callable[[], Closable], versions: dict[str, str]) -> None:
        self._make, self._versions = make, versions
        self._own: Closable | None = None

    def call(self, method: str, args: Sequence[Any]) -> Any:
        if self._own is None:
            check_versions(self._versions)
            self._own = self._make()
        return getattr(self._own, method)(*args)


class ClusterCrew(Crew):
    """A crew of Ray actors; see the module's docstring.

    Args:
        make: makes the object of a member.
        sweep: its `workers` say what a member reserves.
        most: number of calls that are left, so the most members that are needed.
        memory: bytes that each needs.
        as_ranks: whether a member is the first rank of a worker.
    """

    def __init__(
        self,
        make: Callable[[], Closable],
        sweep: Sweep,
        most: int,
        memory: int = 0,
        *,
        as_ranks: bool = False,
    ) -> None:
        self._make, self._wait_s = make, sweep.workers.wait_s
        settings = sweep.workers_by_model
        needs = needs_of(settings, {model: own.wanted_cpus for model, own in settings.items()})
        self._needs = largest(needs, as_ranks=as_ranks)
        self._cpus, self._gpus = (self._needs.each.get(name, 0) for name in ("CPU", "GPU"))
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self._members: dict[Any, Any] = {}
        self._lock, self._stopped = threading.Lock(), False
        # A cluster that grows may have no room yet, but had some for the workers.
        self._at_once = max(1, min(most, max(len(needs), _room(self._needs, memory))))
        self._most = lambda: self._at_once
        for _ in range(self._at_once):
            self._hire()

    def call(self, method: str, *args: Any) -> Any:
        """Return the answer of a method of a member that is idle, once there is one.

        Raises:
            PoolError: if the cluster has no room for any member, or one after the other dies.
            Exception: as the method does.
        """
        import ray

        most = _MOST_DEATHS + self._at_once
        for deaths in range(1, most + 1):
            member = self._next_idle()
            try:
                answer = ray.get(member.call.remote(method, args))
            except ray.exceptions.RayError as error:
                cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
                # A member that has lost its other ranks is of no more use than a dead one.
                if cause is not error and not isinstance(cause, PoolError):
                    self._idle.put(member)
                    raise cause from None
                if self._stopped:
                    raise KeyboardInterrupt from error
                self._dismiss(member)
                self._hire()
                if deaths == most:
                    raise PoolError(
                        f"{deaths} workers died one after the other: {last_line(cause)}"
                    ) from error
            else:
                self._idle.put(member)
                return answer
        raise AssertionError

    def interrupt(self) -> None:
        """End all members, and with them the calls that threads wait for."""
        self.stop()

    def stop(self) -> None:
        """End all members and give back what they have reserved."""
        self._stopped = True
        for member in list(self._members):
            self._dismiss(member)

    def _hire(self) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from kilobit.cluster.fleet.pool import request_placement

        with self._lock:
            if self._stopped:
                return
            placement = request_placement(self._needs)
            actor_class: Any = ray.remote(_Member)
            member = actor_class.options(
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=placement, placement_group_bundle_index=0
                ),
            ).remote(self._make, library_versions())
            self._members[member] = placement
        # A member that died before it was ready is noticed by the call that gets it.
        member.__ray_ready__.remote().future().add_done_callback(partial(self._welcome, member))

    def _welcome(self, member: Any, _: "Future[Any]") -> None:
        self._idle.put(member)

    def _dismiss(self, member: Any) -> None:
        import ray
        from ray.util.placement_group import remove_placement_group

        with self._lock:
            placement = self._members.pop(member, None)
        if placement is not None:
            ray.kill(member)
            remove_placement_group(placement)

    def _next_idle(self) -> Any:
        from kilobit.cluster.fleet.pool import placed

        began = time.monotonic()
        while not self._stopped:
            with suppress(Empty):
                return self._idle.get(timeout=_LOOK_EVERY_S)
            there = placed()
            if any(one.id.hex() in there for one in list(self._members.values())):
                began = time.monotonic()
            elif time.monotonic() - began > self._wait_s:
                size = self._needs.ranks
                each = f"each of the {size} ranks of a worker" if size > 1 else "the programs"
                raise PoolError(
                    f"not enough free resources after {self._wait_s:g} s: no node has "
                    f"{self._cpus:g} CPUs and {self._gpus:g} GPUs free for {each}; add nodes, ask "
                    "for less in `workers`, or wait longer (workers.wait_s)"
                )
        raise KeyboardInterrupt


def _room(need: Need, memory: int) -> int:
    """Return how many members fit on the nodes that are there; a rank is on one node."""
    from kilobit.cluster.fleet.pool import nodes_there

    # Memory is looked at, but not asked of Ray.
    need = replace(need, each={**need.each, **({"memory": memory} if memory else {})})
    return sum(need.room_on(node, node.resources) for node in nodes_there()) // need.ranks


def ranks_on(sweep: Sweep) -> dict[str, ShardsConfig]:
    """Return the ranks of a worker of each base model on a cluster."""
    return {model: own.ranks(own.wanted_cpus) for model, own in sweep.workers_by_model.items()}


def weights_of(sweep: Sweep, loads: Iterable[WorkerRecord]) -> int:
    """Return the bytes of the weights of the largest base model that was loaded, 0 if none was.

    Of a version that did not record them, weights are counted as numbers of the model's type.
    """
    sizes = {model.label: 4 if model.dtype == "float32" else 2 for model in sweep.base_models}
    return max(
        (
            load.weight_bytes or (load.num_parameters or 0) * sizes.get(load.model, 4)
            for load in loads
        ),
        default=0,
    )


def memory_of(sweep: Sweep, loads: Iterable[WorkerRecord]) -> int:
    """Return the bytes of the process of a program of any base model that was loaded."""
    return weights_of(sweep, loads) + _WORKING


def at_once(sweep: Sweep, memory: Callable[[], int]) -> int:
    """Return the number of programs that this machine can run concurrently.

    Args:
        sweep: the sweep.
        memory: returns the bytes that a program needs.
    """
    if any(model.device != "cpu" for model in sweep.base_models):
        return 1
    return max(1, min(cpus() // sweep.workers.threads, free_memory() // memory()))


@contextmanager
def crew_of(
    make: Callable[[], Closable],
    sweep: Sweep,
    most: int,
    address: str | None,
    here: Callable[[], int],
    memory: int = 0,
    *,
    as_ranks: bool = False,
) -> Iterator[Crew]:
    """Yield a crew on the cluster at an address, or without one in this process.

    Args:
        make: makes the object of a member; it is sent to the members.
        sweep: its `workers` say what a member reserves on a cluster.
        most: number of calls that are to be made.
        address: of the cluster.
        here: returns the number of calls that this process answers at once.
        memory: bytes that a member needs on a cluster; 0 if they are those of a worker.
        as_ranks: whether a member on a cluster is the first rank of a worker.

    Raises:
        InputError: if no cluster answers at the address, or only from outside.
    """
    from kilobit.cluster.fleet.remote_driver import check_inside, no_cluster
    from kilobit.cluster.fleet.session import ray_session

    check_inside(address)
    with ExitStack() as stack:
        crew: Crew
        if address is None:
            crew = Crew(make, here)
        else:
            try:
                stack.enter_context(ray_session(address))
            except ConnectionError as error:
                raise no_cluster(address, error) from error
            crew = ClusterCrew(make, sweep, most, memory, as_ranks=as_ranks)
        stack.callback(crew.stop)
        yield crew
