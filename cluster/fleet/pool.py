"""The evaluator pool: Ray actors that each load one base model once and keep it.

Each worker has a placement group, whose node `kilobit.cluster.sweep.placement` chooses. While the
cluster lacks free resources for it, or after it loses the worker's node, Ray keeps the group and
looks for another node, and the worker is pending until its model is loaded there. The search
continues with the workers that are ready. A worker that has nothing left to do leaves its place to
one that waits, so models that do not fit at once take turns.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
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

from kilobit.cluster.messages import (
    EvaluatorSetup,
    Notice,
    PoolError,
    Worker,
    last_line,
    library_versions,
)
from kilobit.cluster.sweep.placement import Need, Node, Placements, cpus_here, needs_of, plan
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.worker.actor import EvaluatorActor
from kilobit.evaluators.ledger.storage import Place

_LOG = logging.getLogger("kilobit")
# Besides the calls of its batch a worker answers `ready`.
_OTHER_CALLS = 1
# Notices and beats are received while all other calls are busy. The call of the latest notice stays
# open, so there is room for the next.
_GROUPS = {"notices": 2, "beats": 1}
# Time for workers to end the call of the latest notice.
_GOODBYE_S = 2.0
_LOOK_EVERY_S = 1.0
# Of the time between two looks this much counts as silence: in the rest the driver itself stood
# still, and with it perhaps the whole machine.
_MOST_COUNTED_S = 5.0


@dataclass
class _Beat:
    """A call that the process of a worker answers at once, whatever it computes.

    Attributes:
        call: its answer.
        silence_s: seconds without an answer; None where the process is being started, which may
            take as long as its model takes to load.
    """

    call: Any
    silence_s: float | None = None


def request_placement(need: Need, parts: Sequence[int] = (), node: str = "") -> PlacementGroup:
    """Request a bundle for every rank, or for all ranks of a node; does not wait.

    Args:
        need: the worker.
        parts: ranks on each node, if they need several and may not span them freely.
        node: id of the node where Ray looks first, if any.
    """
    if len(parts) > 1:
        strategy, bundles = "STRICT_SPREAD", list(parts)
    else:
        strategy, bundles = "PACK" if need.spans else "STRICT_PACK", [1] * need.ranks
    placement: PlacementGroup = placement_group(
        [{name: ranks * amount for name, amount in need.each.items()} for ranks in bundles],
        strategy=strategy,
        _soft_target_node_id=node if node and strategy == "STRICT_PACK" else None,
        bundle_label_selector=[dict(need.labels)] * len(bundles) if need.labels else None,
    )
    return placement


def placed() -> dict[str, list[str]]:
    """Return the nodes of all placement groups that are placed at this moment, by their ids."""
    table: dict[str, dict[str, Any]] = placement_group_table()
    return {
        name: list(placement["bundles_to_node_id"].values())
        for name, placement in table.items()
        if placement["state"] == "CREATED"
    }


def nodes_there() -> list[Node]:
    """Return the nodes of the cluster that are alive, by their ids."""
    return [
        Node(node["NodeID"], node["Resources"], node["Labels"])
        for node in sorted(ray.nodes(), key=lambda node: str(node["NodeID"]))
        if node["Alive"]
    ]


class Pool:
    """The workers of a run; they end with `stop`, or with the last reference to the pool.

    Args:
        sweep: sets the most workers, and the resources that each of them reserves.
        sweep_folder: where relative paths of the sweep start.
        run_folder: the run, with its ledger.
        attempt: number of this attempt at the run.
        local: whether the cluster is only this machine; otherwise it may grow.
        early: whether the run begins later; workers import libraries until it does.

    Attributes:
        workers: all workers, ready or not.

    Raises:
        InputError: if they don't fit on this machine.
    """

    def __init__(
        self,
        sweep: Sweep,
        sweep_folder: Path,
        run_folder: Place,
        attempt: int,
        *,
        local: bool,
        early: bool = False,
    ) -> None:
        self._sweep, self._settings, self._local = sweep, sweep.workers_by_model, local
        there = ray.cluster_resources()
        cpus = {model: own.wanted_cpus for model, own in self._settings.items()}
        if local:
            cpus = cpus_here(self._settings, there.get("CPU", 0.0), there.get("GPU", 0.0))
        self._needs = needs_of(self._settings, cpus)
        self._placements: dict[str, PlacementGroup] = {}
        self._handles: dict[str, Any] = {}
        self._asked: dict[Any, str] = {}
        self._told: dict[str, Any] = {}
        self._ready: set[str] = set()
        # Ray finds another place for those that had one; calls to them are open.
        self._were_ready: set[str] = set()
        self._failed: dict[str, str] = {}
        self._looked_at = -_LOOK_EVERY_S
        self._beats: dict[str, _Beat] = {}
        self._watched_at = -_LOOK_EVERY_S
        # Nodes and strategy of each request, the nodes of those that are placed, and those that
        # have left because nothing was left for them.
        self._requests: dict[str, tuple[tuple[int, ...], str]] = {}
        self._held: dict[str, tuple[str, ...]] = {}
        self._left: set[str] = set()
        self._planned_for: Any = None
        self._found = Placements((), {})
        self._here: frozenset[Worker] = frozenset()
        self._lonely_since: float | None = None
        self.workers = [Worker(need.worker, need.model) for need in self._needs]
        self._setup = EvaluatorSetup(
            sweep=sweep.model_dump_json(),
            sweep_folder=str(sweep_folder),
            run_folder=str(run_folder),
            model="",
            worker="",
            attempt=attempt,
            versions=library_versions(),
            log_level=_LOG.getEffectiveLevel(),
            early=early,
        )
        self._cpus = cpus
        self._plan()

    def _plan(self) -> None:
        """Request what the plan places now, and what more nodes would bring."""
        nodes = nodes_there()
        state = ([node.name for node in nodes], dict(self._held), set(self._left))
        if state == self._planned_for:
            return
        self._planned_for = state
        needs = [need for need in self._needs if need.worker not in self._left]
        self._found = plan(nodes, needs, self._held)
        lacking = any(need.least and need.worker not in self._held for need in needs)
        for need in needs:
            name = need.worker
            if name in self._held or name in self._were_ready:
                continue
            on = self._found.placed.get(name)
            if lacking and not need.least:
                # A place that becomes free is for one of the fewest.
                self._dismiss(name)
            elif on is not None or not self._local:
                self._hire(need, need.parts(nodes), on[0] if on else "")

    def _hire(self, need: Need, parts: tuple[int, ...], node: str) -> None:
        """Request a place for a worker and start it there; an equal request stands."""
        name = need.worker
        if self._requests.get(name) == (parts, node):
            return
        self._dismiss(name)
        own = self._settings[need.model]
        ranks = own.ranks(self._cpus[need.model])
        placement = request_placement(need, parts, node)
        # Ray's types lack this option.
        remote: Any = ray.remote
        actor_class = remote(concurrency_groups=_GROUPS)(EvaluatorActor)
        actor = actor_class.options(
            name=name,
            num_cpus=ranks.cpus_per_rank,
            num_gpus=ranks.gpus_per_rank,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=placement, placement_group_bundle_index=0
            ),
            max_restarts=-1,
            # A worker that dies is restarted and repeats its rungs; by its crash log
            # (`kilobit.cluster.worker.crash_log`) it decides itself which of them to give up.
            max_task_retries=-1,
            max_concurrency=own.slots + _OTHER_CALLS,
        )
        setup = replace(
            self._setup,
            model=need.model,
            worker=name,
            cpus=self._cpus[need.model],
            placement=placement,
        )
        try:
            self._handles[name] = actor.remote(setup)
        except ValueError:
            # The actor that was to have another place has not given its name back yet.
            remove_placement_group(placement)
            self._planned_for = None
            return
        self._requests[name], self._placements[name] = (parts, node), placement
        self._ask(name)

    def _dismiss(self, name: str) -> None:
        """End a worker and remove its placement group, if it has one."""
        if name not in self._handles:
            return
        self._asked = {ref: whose for ref, whose in self._asked.items() if whose != name}
        ray.kill(self._handles.pop(name))
        remove_placement_group(self._placements.pop(name))
        for known in (self._requests, self._held, self._told, self._beats):
            known.pop(name, None)
        self._ready.discard(name)

    def release(self, worker: Worker) -> bool:
        """End an idle worker whose model has nothing left to try, if another model waits.

        Returns:
            Whether the worker has been ended.
        """
        waits = {need.model for need in self._found.waits if need.least} - {worker.model}
        if not waits:
            return False
        _LOG.info("%s leaves its place to %s", worker.name, ", ".join(sorted(waits)))
        # Neither do workers of its model come that wait themselves.
        for name in [w.name for w in self.workers if w.model == worker.model]:
            if name == worker.name or name not in self._ready:
                self._dismiss(name)
                self._left.add(name)
        self._plan()
        return True

    def here(self) -> Collection[Worker]:
        """Return the workers that are placed and have their model; polls at most every second.

        Raises:
            PoolError: if no worker of a model could load it, or no model that is left had room for
                a worker for `workers.wait_s`.
        """
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._look()
            self._check_loaded(1)
            if self._left and not self._held and not self._ready:
                self._lonely_since = now if self._lonely_since is None else self._lonely_since
                if now - self._lonely_since > self._sweep.workers.wait_s:
                    raise self._no_room()
            else:
                self._lonely_since = None
        return self._here

    def wait_for_enough(
        self,
        on_change: Callable[[int, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Wait until the search can begin: until every base model has its fewest workers.

        It begins without models that have to wait for their turn: those that do not fit beside the
        others, by the nodes that are there or after `workers.wait_s`.

        Args:
            on_change: called with the number of workers that are ready and the missing resources.
            clock: returns the time in seconds.
            sleep: waits for seconds.

        Raises:
            PoolError: if a worker can't load its model, or the cluster lacks resources for the
                fewest workers of any model for `workers.wait_s`.
        """
        told, placed_at = None, clock()
        while True:
            here = self.here()
            self._check_loaded(len(self.workers))
            state = (len(here), self._waits_for())
            if state != told:
                on_change(*state)
                told = state
            if self._are_enough(worker.name for worker in here):
                return
            if self._are_enough(self._held):
                placed_at = clock()
            elif clock() - placed_at > self._sweep.workers.wait_s:
                if any(self._has_least(model, self._ready) for model in self._settings):
                    return
                raise self._no_room()
            sleep(_LOOK_EVERY_S / 4)

    def tell(self, worker: str, notice: Notice) -> None:
        """Send a notice to a worker; one that is being started gets the latest once it is ready.

        One that waits for its place gets none: it will when it has a candidate.
        """
        if worker not in self._handles:
            return
        hear = self._handles[worker].hear.options(concurrency_group="notices")
        self._told[worker] = hear.remote(notice)

    def watch(
        self, tell: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start workers again whose process has stood still; looks at most every second.

        A process that is stopped does not die, so Ray waits for it. Each worker that has its model
        is asked for a beat, and killed when none came for `workers.silent_s`: Ray repeats its rungs
        as after any other death.

        Args:
            tell: is given a line on each of them.
            clock: returns the time in seconds.
        """
        passed_s = clock() - self._watched_at
        if passed_s < _LOOK_EVERY_S:
            return
        self._watched_at += passed_s
        calls = [beat.call for beat in self._beats.values()]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=0.01)
        for name in self._ready:
            beat = self._beats.get(name)
            if beat is None or beat.call in done:
                self._beats[name] = self._ask_for_beat(name, beat)
            elif beat.silence_s is not None:
                beat.silence_s += min(passed_s, _MOST_COUNTED_S)
                if beat.silence_s > self._sweep.workers.silent_s:
                    line = (
                        f"worker {name} stood still for {beat.silence_s:.0f} s "
                        "(workers.silent_s): it is killed and started again"
                    )
                    _LOG.error("%s", line)
                    tell(line)
                    ray.kill(self._handles[name], no_restart=False)
                    self._beats[name] = _Beat(self._handles[name].ready.remote())

    def _ask_for_beat(self, name: str, last: _Beat | None) -> _Beat:
        """Ask for the next beat; if the last one failed, wait until the process is there again."""
        actor = self._handles[name]
        try:
            if last is not None:
                ray.get(last.call)
        except ray.exceptions.RayError:
            return _Beat(actor.ready.remote())
        # A beat is of one process: it fails with it, and is not repeated at the next one.
        beat = actor.beat.options(concurrency_group="beats", max_task_retries=0)
        return _Beat(beat.remote(), 0.0)

    def stop(self) -> None:
        """End the workers and remove their placement groups."""
        # Ray prints an error for each call that is open when its actor is killed. Those that stand
        # still are not waited for.
        silent = {name for name, beat in self._beats.items() if (beat.silence_s or 0) > _GOODBYE_S}
        calls = [call for name, call in self._told.items() if name not in silent]
        for name in self._told.keys() - silent:
            dismiss = self._handles[name].dismiss.options(concurrency_group="notices")
            calls.append(dismiss.remote())
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_GOODBYE_S)
        for name in list(self._handles):
            self._dismiss(name)

    def _ask(self, name: str) -> None:
        self._asked[self._handles[name].ready.remote()] = name

    def _look(self) -> None:
        there = placed()
        self._held = {}
        for name, placement in self._placements.items():
            on = there.get(placement.id.hex())
            if on is not None:
                parts = self._requests[name][0]
                # A bundle is a rank, or all ranks of a node.
                each = parts if len(parts) == len(on) > 1 else (1,) * len(on)
                self._held[name] = tuple(
                    node for node, ranks in zip(on, each, strict=True) for _ in range(ranks)
                )
        self._plan()
        for name in self._ready - self._held.keys():
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
                self._were_ready.add(name)
            except ray.exceptions.RayError as error:
                self._failed[name] = last_line(getattr(error, "cause", None) or error)
        self._here = frozenset(
            replace(worker, placement=self._placements[worker.name].id.hex())
            for worker in self.workers
            if worker.name in self._ready
        )

    def _check_loaded(self, enough: int) -> None:
        """Check the workers that failed to load their model, if fewer others have loaded it."""
        for name, why in self._failed.items():
            model = next(worker.model for worker in self.workers if worker.name == name)
            if sum(worker.model == model for worker in self._here) < enough:
                raise PoolError(f"worker {name} could not load {model}: {why}")

    def _has_least(self, model: str, names: Iterable[str]) -> bool:
        there = set(names)
        own = [w for w in self.workers if w.model == model and w.name in there]
        return len(own) >= self._settings[model].least

    def _are_enough(self, names: Iterable[str]) -> bool:
        """Return whether every model has its fewest workers, but those that wait for a turn."""
        there = set(names)
        turns = {need.model for need in self._found.waits if need.least}
        have = {model for model in self._settings if self._has_least(model, there)}
        return bool(have) and have | turns >= self._settings.keys()

    def _no_room(self) -> PoolError:
        return PoolError(
            f"not enough free resources after {self._sweep.workers.wait_s:g} s: "
            f"{self._waits_for()}; add nodes, ask for less in `workers`, or wait longer "
            "(workers.wait_s)"
        )

    def _waits_for(self) -> str:
        """Return the resources that the cluster lacks, empty if every worker is placed."""
        away = [n for n in self._needs if n.worker not in self._held.keys() | self._left]
        if not away:
            return ""
        models = {need.model: str(need) for need in away}
        each = ", ".join(f"{model} with {needs}" for model, needs in models.items())
        there = ray.cluster_resources()
        return (
            f"{len(away)} of {len(self.workers)} workers are pending (of {each}; the cluster "
            f"has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs in all)"
        )
