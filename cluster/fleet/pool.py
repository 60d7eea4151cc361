"""The evaluator pool: Ray actors that each load one base model once and keep it.

Each worker has a placement group with a bundle for every rank. While the cluster lacks free
resources for it, or after it loses the worker's node, Ray keeps the group and looks for another
node, and the worker is pending until its model is loaded there. The search continues with the
workers that are ready.
"""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from kilobit.cluster.messages import EvaluatorSetup, Notice, PoolError, Worker, last_line
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.versions import library_versions
from kilobit.cluster.worker.actor import EvaluatorActor
from kilobit.evaluators.ledger.storage import Place

# Besides the calls of its batch a worker answers `ready`.
_OTHER_CALLS = 1
# Notices are received while all other calls are busy. The call of the latest one stays open, so
# there is room for the next.
_NOTICES = {"notices": 2}
# Time for workers to end the call of the latest notice.
_GOODBYE_S = 2.0
_LOOK_EVERY_S = 1.0


def request_placement(config: ShardsConfig) -> PlacementGroup:
    """Request a bundle for every rank, on as few nodes as possible; does not wait."""
    amounts = {"CPU": config.cpus_per_rank, "GPU": config.gpus_per_rank}
    bundle = {name: amount for name, amount in amounts.items() if amount}
    # Ray rejects an empty bundle; this small share of a CPU is always available.
    placement: PlacementGroup = placement_group(
        [bundle or {"CPU": 0.001}] * config.world_size, strategy="PACK"
    )
    return placement


def placed() -> set[str]:
    """Return the ids of all placement groups that are placed at this moment."""
    table: dict[str, dict[str, Any]] = placement_group_table()
    return {name for name, placement in table.items() if placement["state"] == "CREATED"}


def workers_of(sweep: Sweep) -> list[Worker]:
    """Return the workers of a sweep, which have no placement yet."""
    return [
        Worker(f"{model.label}-{number}", model.label)
        for model in sweep.base_models
        for number in range(sweep.workers.per_model)
    ]


class Pool:
    """The workers of a run; they end with `stop`, or with the last reference to the pool.

    Args:
        sweep: sets the most workers, and the resources that each of them reserves.
        sweep_folder: where relative paths of the sweep start.
        run_folder: the run, with its ledger.
        attempt: number of this attempt at the run.
        local: whether the cluster is only this machine; otherwise it may grow.

    Attributes:
        workers: all workers, ready or not.

    Raises:
        InputError: if they don't fit on this machine.
    """

    def __init__(
        self, sweep: Sweep, sweep_folder: Path, run_folder: Place, attempt: int, *, local: bool
    ) -> None:
        self._sweep = sweep
        there, self._cpus = ray.cluster_resources(), sweep.workers.wanted_cpus
        if local:
            self._cpus = sweep.workers.cpus_here(
                len(sweep.base_models), there.get("CPU", 0.0), there.get("GPU", 0.0)
            )
        self._placements: dict[str, PlacementGroup] = {}
        self._handles: dict[str, Any] = {}
        self._asked: dict[Any, str] = {}
        self._told: dict[str, Any] = {}
        self._ready: set[str] = set()
        self._failed: dict[str, str] = {}
        self._looked_at = -_LOOK_EVERY_S
        self._placed: set[str] = set()
        self._here: frozenset[Worker] = frozenset()
        self.workers: list[Worker] = []
        # Ray's types lack this option.
        remote: Any = ray.remote
        actor_class = remote(concurrency_groups=_NOTICES)(EvaluatorActor)
        told, versions = sweep.model_dump_json(), library_versions()
        for worker in workers_of(sweep):
            placement = request_placement(sweep.workers.ranks(self._cpus))
            setup = EvaluatorSetup(
                sweep=told,
                sweep_folder=str(sweep_folder),
                run_folder=str(run_folder),
                model=worker.model,
                worker=worker.name,
                attempt=attempt,
                versions=versions,
                cpus=self._cpus,
                placement=placement,
                log_level=logging.getLogger("kilobit").getEffectiveLevel(),
            )
            self._placements[worker.name] = placement
            self._handles[worker.name] = actor_class.options(
                name=worker.name,
                num_cpus=self._cpus,
                num_gpus=sweep.workers.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=placement, placement_group_bundle_index=0
                ),
                max_restarts=-1,
                # A worker that dies is restarted and repeats its rungs; by its crash log
                # (`kilobit.cluster.worker.crash_log`) it decides itself which of them to give up.
                max_task_retries=-1,
                max_concurrency=sweep.workers.slots + _OTHER_CALLS,
            ).remote(setup)
            self.workers.append(replace(worker, placement=placement.id.hex()))
            self._ask(worker.name)

    def here(self) -> Collection[Worker]:
        """Return the workers that are placed and have their model; polls at most every second."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        return self._here

    def wait_for_enough(
        self,
        on_change: Callable[[int, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Wait until the search can begin: until every base model has `workers.least` workers.

        Args:
            on_change: called with the number of workers that are ready and the missing resources.
            clock: returns the time in seconds.
            sleep: waits for seconds.

        Raises:
            PoolError: if a worker can't load its model, or the cluster lacks resources for
                `workers.least` workers for `workers.wait_s`.
        """
        told, placed_at = None, clock()
        while True:
            here = self.here()
            for name, why in self._failed.items():
                model = next(w.model for w in self.workers if w.name == name)
                raise PoolError(f"worker {name} could not load {model}: {why}")
            state = (len(here), self._waits_for())
            if state != told:
                on_change(*state)
                told = state
            if self._are_enough(here):
                return
            if self._are_enough([w for w in self.workers if w.placement in self._placed]):
                placed_at = clock()
            elif clock() - placed_at > self._sweep.workers.wait_s:
                raise PoolError(
                    f"not enough free resources after {self._sweep.workers.wait_s:g} s: "
                    f"{state[1]}; add nodes, ask for less in `workers`, or wait longer "
                    "(workers.wait_s)"
                )
            sleep(_LOOK_EVERY_S / 4)

    def tell(self, worker: str, notice: Notice) -> None:
        """Send a notice to a worker; one that is being started gets the latest once it is ready."""
        hear = self._handles[worker].hear.options(concurrency_group="notices")
        self._told[worker] = hear.remote(notice)

    def stop(self) -> None:
        """End the workers and remove their placement groups."""
        # Ray prints an error for each call that is open when its actor is killed.
        calls = list(self._told.values())
        for name in self._told:
            dismiss = self._handles[name].dismiss.options(concurrency_group="notices")
            calls.append(dismiss.remote())
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_GOODBYE_S)
        for handle in self._handles.values():
            ray.kill(handle)
        for placement in self._placements.values():
            remove_placement_group(placement)
        self._handles, self._placements, self._asked, self._told = {}, {}, {}, {}

    def _ask(self, name: str) -> None:
        self._asked[self._handles[name].ready.remote()] = name

    def _look(self) -> None:
        self._placed = placed()
        for name in [w.name for w in self._away()]:
            if name in self._ready:
                # Its "ready" answer dates from before it was rescheduled.
                self._ready.discard(name)
                self._ask(name)
        # `ray.wait` with time-out 0 misses results that are not fetched yet.
        done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0.01)
        for ref in done:
            name = self._asked.pop(ref)
            try:
                ray.get(ref)
                self._ready.add(name)
            except ray.exceptions.RayError as error:
                self._failed[name] = last_line(getattr(error, "cause", None) or error)
        self._here = frozenset(w for w in self.workers if w.name in self._ready)

    def _away(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.placement not in self._placed]

    def _are_enough(self, workers: Collection[Worker]) -> bool:
        models = [worker.model for worker in workers]
        least = self._sweep.workers.least
        return all(models.count(model.label) >= least for model in self._sweep.base_models)

    def _waits_for(self) -> str:
        """Return the resources that the cluster lacks, empty if every worker is placed."""
        without = self._away()
        if not without:
            return ""
        ranks = self._sweep.workers.ranks(self._cpus)
        needs = [f"{ranks.cpus_per_rank or 0:g} CPUs"]
        if ranks.gpus_per_rank:
            needs.append(f"{ranks.gpus_per_rank:g} GPUs")
        each = " and ".join(needs) + (
            f" on {ranks.world_size} ranks each" if ranks.world_size > 1 else ""
        )
        there = ray.cluster_resources()
        return (
            f"{len(without)} of {len(self.workers)} workers are pending ({each}; the cluster "
            f"has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs in all)"
        )
