"""Ray Tune's trials without processes: each waits in the driver for what a worker replies.

A trial is one candidate, an iteration is one rung. Tune would start a process of 136 MB for each
trial that runs, although all that a trial does is to ask a worker and wait.
"""

import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import ray
from ray import PlacementGroupID, tune
from ray.util.placement_group import PlacementGroup, placement_group_table

from kilobit.cluster.messages import BaseModelChangedError, RungReply, last_line
from kilobit.evaluators.ledger.fencing import SupersededError
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.records import RungRecord

Message = dict[str, Any]
"""Result or configuration of a trial, in the form that Tune asks for."""

_Told = Callable[..., None]

# A file system may fail for a moment, so a rung is repeated; a lasting failure ends the run.
_MAX_WRITE_FAILURES = 2
_LOOK_EVERY_S = 5.0
# Ray reschedules a worker within seconds if the cluster has free resources.
_AWAY_S = 20.0


class WorkerLostError(RuntimeError):
    """The worker is dead and will not be started again."""


def is_placed(placement: str) -> bool:
    """Return whether the placement group with this id is placed at this moment."""
    table = placement_group_table(PlacementGroup(PlacementGroupID(bytes.fromhex(placement))))
    return bool(table.get("state") == "CREATED")


class RungTrial(tune.Trainable):
    """One candidate; `begin` asks its worker for the next rung, `end` takes the reply.

    Both return None, or else the message that ends the iteration: the worker's reply as `reply`, or
    a reason that is not the candidate's failure: `halt`, why the run can't continue (the ledger
    can't be written, or belongs to a newer attempt); `lost`, why the worker is dead; `away`, why it
    is unavailable for now.

    Args:
        config: the candidate, its first rung, its worker and the worker's placement group.
        rungs: the ladder.
        ledger: for the row of a rung that the worker could not write.

    Attributes:
        ref: the reply that is awaited.
        placement: the worker's placement group, None for one that can't lose its resources.
        live: whether Tune has begun it.
    """

    def __init__(self, config: Message, rungs: Sequence[Rung], ledger: Ledger) -> None:
        # Tune's own constructor makes folders and log files for a process of the trial.
        self._candidate = Candidate.model_validate_json(config["candidate"])
        self._message: str = config["candidate"]
        self._worker_name: str = config["worker"]
        self.placement: str | None = config["placement"]
        self._rungs, self._ledger = rungs, ledger
        self._next = int(config["first_rung"]) - 1
        self._first, self._tries_left = self._next, 0
        self._worker: Any = None
        self._placed_at = 0.0
        self.ref: Any = None
        self.live = False

    @property
    def num_begun(self) -> int:
        """Number of rungs that it has begun."""
        return self._next - self._first

    def begin(self) -> Message | None:
        """Ask for the next rung."""
        self._next += 1
        self._tries_left = _MAX_WRITE_FAILURES
        return self._ask()

    def end(self) -> Message | None:
        """Take the reply, or ask again if the worker could not write it."""
        try:
            return {"reply": self._reply()}
        except SupersededError as error:
            return {"halt": str(error)}
        except WorkerLostError as error:
            return self._no_worker("lost", error)
        except OSError as error:
            if not self._tries_left:
                return {"halt": str(error)}
            self._tries_left -= 1
            return self._ask()

    def away(self, placed: bool) -> Message | None:
        """Return `away`, and wait no longer, if the worker has had no resources for a while.

        Args:
            placed: whether it has them at this moment.
        """
        now = time.monotonic()
        if placed:
            self._placed_at = now
        if now - self._placed_at <= _AWAY_S:
            return None
        ray.cancel(self.ref)
        return self._no_worker("away", f"{self._worker_name} lost its node")

    def _ask(self) -> Message | None:
        try:
            self._worker = ray.get_actor(self._worker_name)
        except ValueError:
            # Ray drops the name of an actor that will not be started again.
            return self._no_worker("lost", f"{self._worker_name} is gone")
        self.ref = self._worker.run_rung.remote(self._message, self._rungs[self._next])
        self._placed_at = time.monotonic()
        return None

    def _no_worker(self, key: str, why: object) -> Message:
        return {key: str(why), "rung": self._rungs[self._next].index}

    def _reply(self) -> RungReply:
        try:
            reply: RungReply = ray.get(self.ref)
        except ray.exceptions.ActorDiedError as error:
            # Ray raises another error while an actor is being started again.
            raise WorkerLostError(last_line(error)) from error
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, OSError | SupersededError):
                raise cause from error
            if isinstance(cause, BaseModelChangedError):
                ray.kill(self._worker, no_restart=False)
            record = self._failure(self._rungs[self._next])
            return RungReply(record, (record,), self._worker_name)
        return reply

    def _failure(self, rung: Rung) -> RungRecord:
        """Record the current exception as the result at `rung`, because the worker could not."""
        record = RungRecord(
            candidate=self._candidate.id,
            rung=rung.index,
            num_examples=rung.num_examples,
            worker=self._worker_name,
            attempt=self._ledger.attempt,
            finished_at=datetime.now(UTC),
            error=traceback.format_exc(),
        )
        self._ledger.write(RungRecord, record.part, [record])
        return record


class _NoProcess(dict[object, tuple[None]]):
    """Handles of the trials' processes, which Tune's controller looks up: there are none."""

    def __missing__(self, _: object) -> tuple[None]:
        return (None,)


class Trials:
    """The part of Tune's controller that starts trials and waits for them, without processes.

    It has those methods of `ray.air.execution._internal.RayActorManager` that the controller calls;
    what is an actor there is a `RungTrial` here. One call of `next` handles one event.

    Args:
        rungs: the ladder.
        ledger: the ledger of the run.
        watch: called at every event and whenever there is none, to look after the workers.

    Attributes:
        errors: the errors of trials that left no result.
    """

    def __init__(
        self, rungs: Sequence[Rung], ledger: Ledger, watch: Callable[[], None] = lambda: None
    ) -> None:
        self._rungs, self._ledger, self._watch = rungs, ledger, watch
        self.errors: list[Exception] = []
        # Each trial that was not removed, with what Tune wants to be called once it has begun and
        # once it was removed.
        self._trials: dict[RungTrial, tuple[_Told, _Told]] = {}
        self._due: deque[Callable[[], None]] = deque()
        # A trial that waits, with what to call with its message or its error, by awaited reply.
        self._waiting: dict[Any, tuple[RungTrial, _Told, _Told]] = {}
        self._looked_at = time.monotonic()
        self._live_actors_to_ray_actors_resources = _NoProcess()

    def add_actor(
        self,
        cls: object,
        kwargs: Message,
        *,
        on_start: _Told,
        on_stop: _Told,
        **_: object,
    ) -> RungTrial:
        """Make a trial, which begins at one of the next events."""
        trial = RungTrial(kwargs["config"], self._rungs, self._ledger)
        self._trials[trial] = (on_start, on_stop)
        self._due.append(lambda: self._start(trial))
        return trial

    def schedule_actor_task(
        self,
        tracked_actor: RungTrial,
        method_name: str,
        on_result: _Told = lambda *_: None,
        on_error: _Told = lambda *_: None,
        **_: object,
    ) -> None:
        """Begin the next rung of a trial; there is nothing to do for Tune's other tasks."""
        if method_name == "train":
            self._step(tracked_actor.begin, tracked_actor, on_result, on_error)

    def next(self, timeout: float) -> bool:
        """Handle the next event, and return whether there was one within `timeout` seconds."""
        self._watch()
        if self._due:
            self._due.popleft()()
            return True
        if not self._waiting:
            time.sleep(timeout)
            return False
        done, _ = ray.wait(list(self._waiting), timeout=timeout)
        for ref in done:
            trial, on_result, on_error = self._waiting.pop(ref)
            self._step(trial.end, trial, on_result, on_error)
        if time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            self._look_for_workers()
        return bool(done)

    def remove_actor(self, tracked_actor: RungTrial, kill: bool = False, **_: object) -> bool:
        """Remove a trial, and return whether it had begun; `on_stop` is then called."""
        self.clear_actor_task_futures(tracked_actor)
        on_stop = self._trials.pop(tracked_actor)[1]
        if tracked_actor.live:
            self._due.append(lambda: on_stop(tracked_actor))
        return tracked_actor.live

    def clear_actor_task_futures(self, tracked_actor: RungTrial) -> None:
        """Wait no longer for the reply to a trial."""
        self._waiting = {r: one for r, one in self._waiting.items() if one[0] is not tracked_actor}

    def cleanup(self) -> None:
        """Forget all trials."""
        self._trials.clear()
        self._due.clear()
        self._waiting.clear()

    def is_actor_started(self, tracked_actor: RungTrial) -> bool:
        """Return whether a trial has begun and was not removed."""
        return tracked_actor.live and tracked_actor in self._trials

    def is_actor_failed(self, tracked_actor: RungTrial) -> bool:
        """Return False: no process can die."""
        return False

    def get_live_actors_resources(self) -> dict[str, float]:
        """Return the resources that trials reserve: none."""
        return {}

    @property
    def num_pending_actors(self) -> int:
        """Number of trials that have not begun."""
        return sum(not trial.live for trial in self._trials)

    @property
    def num_live_actors(self) -> int:
        """Number of trials that have begun."""
        return sum(trial.live for trial in self._trials)

    @property
    def num_total_actors(self) -> int:
        """Number of trials."""
        return len(self._trials)

    @property
    def num_actor_tasks(self) -> int:
        """Number of rungs that are awaited."""
        return len(self._waiting)

    def _start(self, trial: RungTrial) -> None:
        if trial in self._trials:
            trial.live = True
            self._trials[trial][0](trial)

    def _step(
        self,
        step: Callable[[], Message | None],
        trial: RungTrial,
        on_result: _Told,
        on_error: _Told,
    ) -> None:
        """Begin or end a rung, and tell Tune once its message is known."""
        try:
            message = step()
        except Exception as error:  # noqa: BLE001 - one trial must not end the others
            self.errors.append(error)
            reason = error
            self._due.append(lambda: on_error(trial, reason))
            return
        if message is None:
            self._waiting[trial.ref] = (trial, on_result, on_error)
            return
        self._tell(trial, message, on_result)

    def _tell(self, trial: RungTrial, message: Message, on_result: _Told) -> None:
        told = message | {"training_iteration": trial.num_begun, "done": False}
        self._due.append(lambda: on_result(trial, told))

    def _look_for_workers(self) -> None:
        """Wait no longer for workers that have had no resources for a while."""
        self._looked_at = time.monotonic()
        placed: dict[str, bool] = {}
        for ref, (trial, on_result, _) in list(self._waiting.items()):
            where = trial.placement
            if where is None:
                continue
            if where not in placed:
                placed[where] = is_placed(where)
            message = trial.away(placed[where])
            if message is not None:
                del self._waiting[ref]
                self._tell(trial, message, on_result)
