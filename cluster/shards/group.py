"""A shard group: the processes of all ranks of one base model, as one object.

The caller's process is rank 0; every other rank is a Ray actor, a follower. Each rank holds a
resident object that a factory made there. `call` runs one of its methods on all ranks at once,
because every rank has to take part in each collective operation.

A rank that dies, fails or waits for longer than the timeout ends the group: its processes are
killed, and the caller gets one `GroupError`. The caller can then make a new group in the same
placement group. Two things are not promised: a rank 0 that hangs outside of a collective operation
hangs its caller, and a call has no time limit as long as the ranks keep pace with one another.

Watch the followers' part of a call, and find the cause when several ranks fail.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from kilobit.cluster.shards import process_group
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig

Resident = TypeVar("Resident")

_GOODBYE_S = 10.0
# Interval at which a thread of rank 0 checks for failed followers.
_LOOK_S = 0.2
# How long rank 0 waits after its own failure for a follower's, and the other way round: one may
# have caused the other, or both may be the same error of the method that they ran.
BLAME_S = 5.0


class GroupError(RuntimeError):
    """Error of a rank that died, failed or did not answer in time; it ends the group.

    Attributes:
        rank: the rank that failed first, None if the group could not be placed.
    """

    def __init__(self, rank: int | None, cause: str) -> None:
        super().__init__(rank, cause)
        self.rank, self._cause = rank, cause

    def __str__(self) -> str:
        if self.rank is None:
            return self._cause
        return f"rank {self.rank} of the shard group {self._cause}"


class _Follower:
    """A rank other than 0: an actor with one thread, and one that answers beats meanwhile."""

    def __init__(self) -> None:
        self._resident: Any = None

    def where(self) -> tuple[str, str]:
        """Return the id and the address of this actor's node."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def start(
        self,
        address: RankAddress,
        device: str,
        timeout_s: float,
        factory: Callable[..., Any],
        args: Sequence[Any],
    ) -> None:
        """Join the group and make the resident object."""
        process_group.join(address, device, timeout_s, None)
        self._resident = factory(address, *args)

    def call(self, method: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Run a method of the resident object; rank 0 returns what it returns."""
        getattr(self._resident, method)(*args, **kwargs)

    def beat(self) -> None:
        """Return at once."""

    def stop(self) -> None:
        """Drop the resident object and leave the process group, so that other ranks can go on."""
        self._resident = None
        process_group.leave()


class ShardGroup(Generic[Resident]):
    """Ranks that each hold a resident object; see the module's docstring.

    Args:
        config: number of ranks, resources of each, and timeout.
        device: cpu or cuda; determines the communication backend.
        factory: called on every rank as `factory(address, *args)`; its result stays on the rank.
        args: sent to every rank.
        placement: a placement group (`kilobit.cluster.fleet.pool.request_placement`): bundle 0 is
            the caller's, bundles 1, 2, ... are the followers', or all share the bundles of their
            nodes; not needed for one rank.

    Attributes:
        resident: rank 0's object.

    Raises:
        GroupError: if the ranks can't be placed, don't meet in time, or a factory fails on one.
    """

    def __init__(
        self,
        config: ShardsConfig,
        device: str,
        factory: Callable[..., Resident],
        args: Sequence[Any] = (),
        placement: PlacementGroup | None = None,
    ) -> None:
        self._timeout_s = config.timeout_s
        self._followers: list[Any] = []
        self._alive = True
        self.resident: Resident
        if config.world_size == 1:
            self.resident = factory(RankAddress(), *args)
            return
        assert placement is not None
        try:
            self._followers = [
                _start_follower(config, placement, rank) for rank in range(1, config.world_size)
            ]
            addresses = self._addresses(config)
            self._start(addresses, device, factory, args)
        except BaseException:
            self._abandon()
            raise

    def _addresses(self, config: ShardsConfig) -> list[RankAddress]:
        refs = [follower.where.remote() for follower in self._followers]
        own = _Follower().where()
        try:
            homes = [own, *ray.get(refs, timeout=self._timeout_s)]
        except ray.exceptions.RayError as error:
            raise GroupError(
                None, f"not all of {config.world_size} ranks started: {error}"
            ) from error
        nodes = [node for node, _ in homes]
        host = "127.0.0.1" if len(set(nodes)) == 1 else own[1]
        return [
            RankAddress(rank, config.world_size, nodes[:rank].count(node), nodes.count(node), host)
            for rank, node in enumerate(nodes)
        ]

    def _start(
        self,
        addresses: Sequence[RankAddress],
        device: str,
        factory: Callable[..., Resident],
        args: Sequence[Any],
    ) -> None:
        listener = process_group.listen(addresses[0].host)
        port = listener.getsockname()[1]
        addresses = [replace(address, port=port) for address in addresses]
        refs = [
            follower.start.remote(address, device, self._timeout_s, factory, list(args))
            for follower, address in zip(self._followers, addresses[1:], strict=True)
        ]

        def start_rank_0() -> Resident:
            process_group.join(addresses[0], device, self._timeout_s, listener)
            return factory(addresses[0], *args)

        self.resident = self._together(refs, start_rank_0, "starting")

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Run a method of the resident objects with the same arguments; return rank 0's result.

        An error with the same type and text on all ranks is the method's own: it is raised
        unchanged and the group stays.

        Raises:
            GroupError: if a rank failed, died or did not finish; the group is gone.
            ValueError: if the group is gone already.
        """
        if not self._alive:
            raise ValueError("this shard group is gone; make a new one")
        if not self._followers:
            return getattr(self.resident, method)(*args, **kwargs)
        try:
            refs = [f.call.remote(method, list(args), kwargs) for f in self._followers]
            run = getattr(self.resident, method)
            return self._together(refs, lambda: run(*args, **kwargs), f"in `{method}`")
        except Exception as error:
            if isinstance(error, GroupError):
                self._abandon()
            raise
        except BaseException:
            # Interrupted in the middle: the ranks are no longer in step.
            self._abandon()
            raise

    def _together(self, refs: Sequence[Any], local: Callable[[], Any], doing: str) -> Any:
        """Run rank 0's part while the followers run theirs.

        Raises:
            GroupError: see `call`; the group has to be abandoned then.
        """
        watch = RankWatch(refs, self._followers)
        error: Exception | None = None
        result = None
        try:
            result = local()
        except Exception as caught:  # noqa: BLE001 - the failed rank is determined below
            error = caught
        failures = watch.finish(self._timeout_s if error is None else BLAME_S)
        if error is None and not failures:
            return result
        if error is not None and all_ranks_failed(error, failures, len(refs)):
            raise error
        if error is not None:
            failures.append((0, error))
        rank, cause = min(failures, key=lambda failure: depth(failure[1]))
        text = (str(cause).strip() or "no message").splitlines()[0]
        raise GroupError(rank, f"failed {doing}: {type(cause).__name__}: {text}") from cause

    def beat(self) -> None:
        """Return once the process of every follower has answered, whatever it computes.

        Raises:
            ray.exceptions.RayError: if one is dead, which `call` reports too.
        """
        ray.get([f.beat.options(concurrency_group="beats").remote() for f in self._followers])

    def stop(self) -> None:
        """End the group: all ranks leave the process group, then the followers are killed."""
        if not self._alive:
            return
        with suppress(ray.exceptions.RayError):
            ray.get([f.stop.remote() for f in self._followers], timeout=_GOODBYE_S)
        self._abandon()

    def _abandon(self) -> None:
        """Kill the followers and leave the process group."""
        self._alive = False
        kill(self._followers)
        self._followers = []
        self.__dict__.pop("resident", None)
        process_group.leave()

    def __enter__(self) -> "ShardGroup[Resident]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _start_follower(config: ShardsConfig, placement: PlacementGroup, bundle: int) -> Any:
    remote: Any = ray.remote
    actor_class = remote(concurrency_groups={"beats": 1})(_Follower)
    if placement.bundle_count < config.world_size:
        bundle = -1
    return actor_class.options(
        num_cpus=config.cpus_per_rank or 0,
        num_gpus=config.gpus_per_rank or 0,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=placement, placement_group_bundle_index=bundle
        ),
    ).remote()


class RankWatch:
    """Monitor of the followers' part of a call while rank 0 runs its own part.

    Rank 0 may be waiting in a collective operation for a follower that failed. Killing all
    followers ends that wait at once.
    """

    def __init__(self, refs: Sequence[Any], followers: Sequence[Any]) -> None:
        self._ranks = {ref: rank for rank, ref in enumerate(refs, 1)}
        self._followers = followers
        self._waiting = list(refs)
        self._failures: list[tuple[int, Exception]] = []
        self._kill_at: float | None = None
        self._killed = False
        self._local_done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def finish(self, patience_s: float) -> list[tuple[int, Exception]]:
        """Wait up to `patience_s` for the followers; return the failed ranks and their errors.

        To be called when rank 0 is done with its own part.
        """
        self._local_done.set()
        self._thread.join()
        deadline = time.monotonic() + patience_s
        while self._waiting and not self._killed and time.monotonic() < deadline:
            self._collect()
        if self._killed or not self._waiting:
            return self._failures
        late = TimeoutError(f"it did not finish within {patience_s:g} s after rank 0")
        return [*self._failures, *((self._ranks[ref], late) for ref in self._waiting)]

    def _look(self) -> None:
        while not self._local_done.is_set() and not self._killed:
            if self._waiting:
                self._collect()
            elif self._kill_at is None or self._local_done.wait(_LOOK_S):
                return
            else:
                self._kill_when_due()

    def _collect(self) -> None:
        done, self._waiting = ray.wait(
            self._waiting, num_returns=len(self._waiting), timeout=_LOOK_S, fetch_local=False
        )
        for ref in done:
            try:
                ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                self._failures.append((self._ranks[ref], error.cause))
            except ray.exceptions.RayError as error:
                self._failures.append((self._ranks[ref], error))
        if self._failures and self._kill_at is None:
            # Kill at once after a death only: an error of the method itself is raised on all ranks
            # at about the same time, so give the other ranks time to raise it too.
            died = any(depth(cause) == 0 for _, cause in self._failures)
            self._kill_at = time.monotonic() + (0.0 if died else BLAME_S)
        self._kill_when_due()

    def _kill_when_due(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            kill(self._followers)
            self._killed = True


def depth(cause: Exception) -> int:
    """Return the distance of a failure from its likely cause: 0 is the death of a rank."""
    if isinstance(cause, ray.exceptions.RayError):
        return 0
    if isinstance(cause, TimeoutError):
        return 2
    # A collective operation failed, usually because another rank had failed before.
    text = str(cause).lower()
    waited = isinstance(cause, RuntimeError) and ("gloo" in text or "nccl" in text)
    return 3 if waited else 1


def all_ranks_failed(
    error: Exception, failures: Sequence[tuple[int, Exception]], num_followers: int
) -> bool:
    """Return whether every follower failed with the same error as rank 0."""
    return len(failures) == num_followers and all(
        type(cause) is type(error) and str(cause) == str(error) and depth(cause) == 1
        for _, cause in failures
    )


def kill(followers: Sequence[Any]) -> None:
    """Kill the followers' processes, on any node."""
    for follower in followers:
        ray.kill(follower, no_restart=True)
