"""Scheduler and searcher for Ray Tune.

They hold no policy: `kilobit.search.schedulers` decides which candidates are promoted,
`kilobit.search.proposers` which are tried.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback, CheckpointConfig
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher, SearchGenerator

from kilobit.cluster.driver.recorder import Recorder
from kilobit.cluster.driver.trial import Message, RungTrial, Trials
from kilobit.cluster.messages import Notice, PoolError, RungReply, Worker, relay
from kilobit.evaluators.ledger.fencing import SupersededError
from kilobit.evaluators.merge.atomic_folder import temporary_folder
from kilobit.search.candidate import Candidate
from kilobit.search.schedulers.bits_aware import RungJudge

_LOG = logging.getLogger("kilobit")


class StopRequest:
    """Stop request of a run: set after `deadline` (monotonic seconds), or by `request`.

    Attributes:
        reason: why it was requested, None if it was not.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self.reason: str | None = None

    def request(self, reason: str) -> None:
        """Request the stop; the first reason is kept."""
        self.reason = self.reason or reason

    @property
    def requested(self) -> bool:
        """Return whether the run is to stop, so that no new work is begun."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        return late or self.reason is not None


class _NotSaved:
    """Base of objects that pickle empty: Tune saves them, but the ledger restores their state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Accept that there is no single metric."""
        return True


class RecordedScheduler(_NotSaved, FIFOScheduler):
    """Translate decisions for Tune; no trial continues once stopping was requested.

    Args:
        recorder: decides, and records decisions.
        stop_request: the stop request.
        on_promotion: called with a worker, its candidate and the candidate's next rung.
        on_deferral: called with a candidate that goes on later, and its next rung.
    """

    def __init__(
        self,
        recorder: Recorder,
        stop_request: StopRequest,
        on_promotion: Callable[[str, str, int], None] = lambda *_: None,
        on_deferral: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_deferral = on_deferral
        self._recorder, self._stop_request = recorder, stop_request
        self._on_promotion = on_promotion

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Message) -> str:
        """Decide after a rung on all candidates of the same batch, in the order of their proposals.

        Results come one by one and in any order; the first one triggers all these decisions.
        """
        go_on = False
        reply: RungReply | None = result.get("reply")
        if result.get("halt"):
            self._stop_request.request(result["halt"])
        elif reply is not None:
            relay(reply.worker, reply.log)
            try:
                record = reply.record
                decisions = self._recorder.decide_together(reply.together)
                decision = decisions[record.candidate, record.rung]
                go_on = decision.action == "promote" and not decision.later
                if decision.later:
                    # Its trial ends; another one goes on with it.
                    self._on_deferral(record.candidate, record.rung + 1)
            except (OSError, SupersededError, ValueError) as error:
                self._stop_request.request(str(error))
        go_on = go_on and not self._stop_request.requested
        if go_on and reply is not None:
            self._on_promotion(reply.worker, record.candidate, record.rung + 1)
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)


class BitsAwareScheduler(FIFOScheduler):
    """Bits-aware successive halving as a scheduler of Ray Tune's, for trainables of the user's own.

    Each report of a trial is a rung. Its results hold a mean score from 0 to 1 and the trial's
    length. An experiment that Tune restores begins with no results of other trials.

    Args:
        sizes: number of examples that a score is the mean of, for each rung.
        eta: one in `eta` may go on where the number is limited.
        score: key of the score in a result.
        bits: key of the length in a result.
        trained: no more training changes a trial; see `kilobit.search.schedulers.bits_aware`.

    Raises:
        ValueError: if `sizes` or `eta` is out of range.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        eta: int = 3,
        score: str = "score",
        bits: str = "bits",
        trained: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._judge = RungJudge(sizes, eta=eta, trained=trained)
        self._score, self._bits = score, bits

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial goes on after a report.

        Raises:
            ValueError: if the result lacks a score or a length, or one is out of range.
        """
        missing = next((key for key in (self._score, self._bits) if key not in result), None)
        if missing is not None:
            raise ValueError(f"trial {trial.trial_id} reported no {missing!r}: {sorted(result)}")
        rung = result["training_iteration"] - 1
        found = self._judge.judge(trial.trial_id, rung, result[self._score], result[self._bits])
        go_on = found.action == "promote"
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)


class RecordedSearcher(_NotSaved, Searcher):
    """Assign each candidate to a free worker that holds its base model.

    Candidates that an earlier attempt left between two rungs come first, then new proposals.

    Args:
        recorder: proposes candidates and records decisions.
        pending: candidates between two rungs, each with its next rung.
        workers: all workers of the run, also those that are not available yet.
        slots: slots of a worker by base model, one for each candidate that can share its passes.
        stop_request: the stop request.
        here: returns the workers that can take a candidate now; all of them by default.
        tell: sends a notice to a worker.
        release: ends a worker that has nothing left to do if another model waits for its place,
            and returns whether it did.
        later: those of the pending candidates that go on when nothing else is left to try.
    """

    def __init__(
        self,
        recorder: Recorder,
        pending: Sequence[tuple[Candidate, int]],
        workers: list[Worker],
        slots: Mapping[str, int],
        stop_request: StopRequest,
        here: Callable[[], Collection[Worker]] | None = None,
        tell: Callable[[str, Notice], None] = lambda *_: None,
        release: Callable[[Worker], bool] = lambda _: False,
        later: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._recorder, self._stop_request, self._send = recorder, stop_request, tell
        self._release = release
        self._here = here or (lambda: workers)
        self._pending: dict[str, deque[tuple[Candidate, int]]] = {w.model: deque() for w in workers}
        # Candidates for which all others come first; and the next rungs of those among the busy
        # ones.
        self._back = {model: deque[tuple[Candidate, int]]() for model in self._pending}
        self._deferred: dict[str, int] = {}
        for candidate, next_rung in pending:
            queues = self._back if candidate.id in later else self._pending
            queues[candidate.model].append((candidate, next_rung))
        self._by_name = {worker.name: worker for worker in workers}
        self._slots, most = slots, max(slots.values())
        self._free = deque(w for n in range(most) for w in workers if n < slots[w.model])
        self._busy: dict[str, tuple[Worker, Candidate]] = {}
        self._workers, self._lost = list(workers), set[Worker]()
        # Each worker's candidates with their next rungs, and its latest notice.
        self._expected: dict[str, dict[str, int]] = {w.name: {} for w in workers}
        self._told: dict[str, Notice] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's message, None while all workers are busy or away, or the end."""
        try:
            found, idle = (None, []) if self._stop_request.requested else self._assign(trial_id)
            # Free workers need not wait for more now; a pending result may still lead to more.
            if found is None:
                for worker in set(self._free):
                    self._tell(worker, more=False)
        except (OSError, PoolError, SupersededError, ValueError) as error:
            self._stop_request.request(str(error))
            return Searcher.FINISHED
        over = not self._busy and all(w.model in idle for w in self._workers if w not in self._lost)
        return (
            Searcher.FINISHED if found is None and (self._stop_request.requested or over) else found
        )

    def _assign(self, trial_id: str) -> tuple[Message | None, list[str]]:
        """Return the next trial's message, or None and the models without candidates."""
        here, idle = {worker.name: worker for worker in self._here()}, []
        for free in dict.fromkeys(self._free):
            worker = here.get(free.name)
            if worker is None:
                continue
            found = self._next(worker.model)
            if found is None:
                idle.append(worker.model)
                if not self._expected[worker.name] and self._release(worker):
                    self._forget(worker)
                continue
            candidate, next_rung = found
            self._free.remove(worker)
            self._busy[trial_id] = (worker, candidate)
            self._expected[worker.name][candidate.id] = next_rung
            self._tell(worker, more=True)
            _LOG.debug("%s is assigned to %s at rung %d", candidate.id, worker.name, next_rung)
            return {
                "candidate": candidate.canonical(),
                "first_rung": next_rung,
                "worker": worker.name,
                "placement": worker.placement,
            }, idle
        return None, idle

    def promoted(self, worker: str, candidate: str, next_rung: int) -> None:
        """Tell a worker that one of its candidates will go on to its next rung."""
        self._expected[worker][candidate] = next_rung
        self._tell(self._by_name[worker], more=self._told[worker].more)

    def promoted_for_later(self, candidate: str, next_rung: int) -> None:
        """Put a candidate to the back of the queue once its trial has ended."""
        self._deferred[candidate] = next_rung

    def _tell(self, worker: Worker, *, more: bool) -> None:
        """Tell a worker its candidates, whether more may come, and the incumbents."""
        expected = dict(self._expected[worker.name])
        notice = Notice(
            self._told.get(worker.name, Notice()).number,
            expected,
            more and len(expected) < self._slots[worker.model],
            self._recorder.incumbents(worker.model, set(expected.values())),
        )
        if notice != self._told.get(worker.name):
            self._told[worker.name] = replace(notice, number=notice.number + 1)
            self._send(worker.name, self._told[worker.name])

    def _next(self, model: str) -> tuple[Candidate, int] | None:
        if self._pending[model]:
            return self._pending[model].popleft()
        candidate = self._recorder.propose(model)
        if candidate is not None:
            return candidate, self._recorder.first_rung
        return self._back[model].popleft() if self._back[model] else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Free the trial's slot, and requeue its candidate if the worker was lost or away."""
        worker, candidate = self._busy.pop(trial_id)
        del self._expected[worker.name][candidate.id]
        if result is not None and result.get("lost"):
            self._lose(worker, candidate, result["rung"], result["lost"])
            return
        if candidate.id in self._deferred:
            self._back[candidate.model].append((candidate, self._deferred.pop(candidate.id)))
        if result is not None and result.get("away"):
            _LOG.warning("%s: %s is assigned to another worker", result["away"], candidate.id)
            self._pending[candidate.model].append((candidate, result["rung"]))
        if worker in self._lost:
            return
        self._free.append(worker)
        self._tell(worker, more=not self._stop_request.requested)

    def _lose(self, worker: Worker, candidate: Candidate, rung: int, why: str) -> None:
        """Stop using a worker; its candidates go to other workers of the same base model."""
        if worker not in self._lost:
            _LOG.error("worker %s is lost: %s", worker.name, why)
        self._forget(worker)
        self._pending[candidate.model].append((candidate, rung))
        if all(one in self._lost for one in self._workers if one.model == worker.model):
            self._stop_request.request(f"no worker of {worker.model} is left: {why}")

    def _forget(self, worker: Worker) -> None:
        self._lost.add(worker)
        self._free = deque(one for one in self._free if one != worker)

    def save(self, checkpoint_path: str) -> None:
        """Create an empty file, because Tune renames the file that it asked for."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the ledger is the truth."""


class _Controller(TuneController):
    """Tune's loop, with trials that have no process, and without Tune's files."""

    def __init__(self, trials: Trials, **settings: Any) -> None:
        super().__init__(**settings)
        self._actor_manager = trials  # type: ignore[assignment]

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Save nothing: the ledger is the truth."""
        self._trials_to_cache.clear()


def run_trials(
    searcher: RecordedSearcher,
    scheduler: RecordedScheduler,
    trials: Trials,
    callbacks: Sequence[Callback] = (),
) -> list[Exception]:
    """Run all trials through Ray Tune and return the errors of those that left no result.

    Args:
        searcher: chooses the next candidate and its worker.
        scheduler: decides which trials continue.
        trials: where they run and are awaited.
        callbacks: receive the results.
    """
    # Tune wants a folder, which nothing reads.
    with temporary_folder("tune") as scratch:
        # By default Tune asks class trainables for a checkpoint at their end.
        no_checkpoint = CheckpointConfig(checkpoint_at_end=False)
        experiment = Experiment(
            "trials",
            run=RungTrial,
            num_samples=sys.maxsize,
            storage_path=str(scratch),
            checkpoint_config=no_checkpoint,
        )
        search = SearchGenerator(searcher)
        search.add_configurations([experiment])
        controller: Any = _Controller(
            trials,
            search_alg=search,
            scheduler=scheduler,
            callbacks=list(callbacks),
            trial_checkpoint_config=no_checkpoint,
            storage=experiment.storage,
        )
        controller.setup_experiments([experiment], search.total_samples)
        try:
            while not controller.is_finished():
                controller.step()
        except Exception:
            controller.cleanup()
            raise
        controller.cleanup()
    return trials.errors
