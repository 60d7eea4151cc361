"""Our scheduler and our searcher as Ray Tune sees them.

No policy lives here: who goes on is decided in `search.halving`, what is tried in `search.space`.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.messages import Worker
from cluster.trial import RungTrial
from evaluators.fence import SupersededError
from evaluators.ledger import Ledger
from evaluators.snapshot import fold
from search.candidate import Candidate
from search.halving import Decision, Halving
from search.rungs import Rung

Row = dict[str, Any]
# A trial's process may die (out of memory, a lost node); its worker and its rows are not affected.
_MAX_TRIAL_FAILURES = 2
# Small parts are slow to read, and this many of them are read in a second or two.
FOLD_EVERY = 250


class Brake:
    """Says when nothing more is begun: after `deadline` (monotonic seconds), or once pulled.

    Attributes:
        reason: why it was pulled, None if it was not.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self.reason: str | None = None

    def pull(self, reason: str) -> None:
        """Stop the run; the first reason stays."""
        self.reason = self.reason or reason

    @property
    def on(self) -> bool:
        """Return whether nothing more is begun."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        return late or self.reason is not None


class Recorder:
    """Asks `Halving` after each rung, writes its decision to the ledger and tells a listener.

    Args:
        halving: who decides.
        ledger: where decisions go.
        models: the base model of each candidate.
        length: which bits count.
        listener: is told of each decision.
        order: the number of the next decision of the run.
    """

    def __init__(
        self,
        halving: Halving,
        ledger: Ledger,
        models: Mapping[str, str],
        length: str,
        listener: Callable[[Row, Decision, str], None],
        order: int = 0,
    ) -> None:
        self._halving, self._ledger, self._order = halving, ledger, order
        self._models, self.listener = models, listener
        self._bits = f"{length}_bits"
        self._recorded: set[tuple[str, int]] = set()

    def decide(self, row: Row) -> Decision:
        """Return what happens to the candidate of `row`; a row that comes again changes nothing.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if the decision can't be recorded.
            ValueError: naming the file, if a part of the ledger is damaged.
        """
        candidate = row["candidate"]
        decision = self._halving.report(
            candidate,
            model=self._models[candidate],
            rung=row["rung"],
            score=row.get("score"),
            bits=row.get(self._bits),
        )
        reason = decision.reason
        if row.get("error"):
            reason = f"failed: {row['error'].strip().splitlines()[-1]}"
        if (candidate, row["rung"]) not in self._recorded:
            self._write(decision, reason)
            self._recorded.add((candidate, row["rung"]))
            self.listener(row, decision, reason)
            if self._order % FOLD_EVERY == 0:
                fold(self._ledger)
        return decision

    def _write(self, decision: Decision, reason: str) -> None:
        self._ledger.write(
            "decisions",
            f"{decision.candidate}-r{decision.rung}",
            [
                {
                    "candidate": decision.candidate,
                    "rung": decision.rung,
                    "decision": decision.action,
                    "reason": reason,
                    "compared_with": list(decision.compared_with),
                    "attempt": self._ledger.attempt,
                    "decided_at": datetime.now(UTC),
                    "order": self._order,
                }
            ],
        )
        self._order += 1


class _NotSaved:
    """Tune pickles what it is given to its own folder; ours is rebuilt from the ledger instead."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class HalvingScheduler(_NotSaved, FIFOScheduler):
    """Turns decisions into Tune's words; with the brake on nobody goes on."""

    def __init__(self, recorder: Recorder, brake: Brake) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder, self._brake = recorder, brake

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        """Accept that there is no single metric."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Row) -> str:
        """Decide after a rung."""
        go_on = False
        if result.get("halt"):
            self._brake.pull(result["halt"])
        else:
            try:
                go_on = self._recorder.decide(result).action == "promote"
            except (OSError, SupersededError, ValueError) as error:
                self._brake.pull(str(error))
        go_on = go_on and not self._brake.on
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)


class QueueSearcher(_NotSaved, Searcher):
    """Hands out candidates in their order, each to a free worker that holds its base model."""

    def __init__(
        self,
        queue: Sequence[tuple[Candidate, int]],
        workers: Sequence[Worker],
        rungs: Sequence[Rung],
        run_folder: str,
        attempt: int,
        brake: Brake,
    ) -> None:
        super().__init__()
        self._queues: dict[str, deque[tuple[Candidate, int]]] = {w.model: deque() for w in workers}
        for candidate, first_rung in queue:
            self._queues[candidate.model].append((candidate, first_rung))
        self._free = deque(workers)
        self._busy: dict[str, Worker] = {}
        self._common = {
            "rungs": [(r.index, r.num_examples, r.train_steps) for r in rungs],
            "run_folder": run_folder,
            "attempt": attempt,
        }
        self._brake = brake

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Accept that there is no single metric."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's message, None while all workers are busy, or the end."""
        if self._brake.on or not any(self._queues.values()):
            return Searcher.FINISHED
        worker = next((w for w in self._free if self._queues[w.model]), None)
        if worker is None:
            return None
        self._free.remove(worker)
        self._busy[trial_id] = worker
        candidate, first_rung = self._queues[worker.model].popleft()
        return {
            "candidate": candidate.canonical(),
            "first_rung": first_rung,
            "worker": worker.name,
            **self._common,
        }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Take the trial's worker back."""
        self._free.append(self._busy.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Save an empty file, because Tune renames what it asked for."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the ledger is the truth."""


def run_trials(
    searcher: QueueSearcher,
    scheduler: HalvingScheduler,
    num_trials: int,
    trial_cpus: float,
    scratch: Path,
) -> list[BaseException]:
    """Run all trials through Ray Tune and return the errors of those that left no result.

    Args:
        searcher: what is tried next, and on which worker.
        scheduler: who goes on.
        num_trials: how many candidates there are.
        trial_cpus: what a trial reserves; it only waits for messages.
        scratch: where Tune keeps its own files; nothing of ours is read from there.
    """
    tuner = tune.Tuner(
        tune.with_resources(RungTrial, {"cpu": trial_cpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=num_trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=_MAX_TRIAL_FAILURES),
            # Class trainables are asked for a checkpoint at their end unless told otherwise.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    return list(tuner.fit().errors)
