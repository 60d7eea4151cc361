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
from evaluators.ledger import Ledger
from search.candidate import Candidate
from search.halving import Decision, Halving
from search.rungs import Rung

Row = dict[str, Any]
# A trial's process may die (out of memory, a lost node); its worker and its rows are not affected.
_MAX_TRIAL_FAILURES = 2


class Recorder:
    """Asks `Halving` after each rung, writes its decision to the ledger and tells a listener."""

    def __init__(
        self,
        halving: Halving,
        ledger: Ledger,
        attempt: int,
        models: Mapping[str, str],
        length: str,
        listener: Callable[[Row, Decision, str], None],
    ) -> None:
        self._halving, self._ledger, self._attempt = halving, ledger, attempt
        self._models, self._listener = models, listener
        self._bits = f"{length}_bits"

    def decide(self, row: Row) -> Decision:
        """Return what happens to the candidate of `row`."""
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
        self._write(decision, reason)
        self._listener(row, decision, reason)
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
                    "attempt": self._attempt,
                    "decided_at": datetime.now(UTC),
                }
            ],
        )


class _NotSaved:
    """Tune pickles what it is given to its own folder; ours is rebuilt from the ledger instead."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class HalvingScheduler(_NotSaved, FIFOScheduler):
    """Turns decisions into Tune's words; after `deadline` (monotonic seconds) nobody goes on."""

    def __init__(self, recorder: Recorder, deadline: float | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder, self._deadline = recorder, deadline

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        """Accept that there is no single metric."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Row) -> str:
        """Decide after a rung."""
        decision = self._recorder.decide(result)
        late = self._deadline is not None and time.monotonic() > self._deadline
        go_on = decision.action == "promote" and not late
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
        deadline: float | None,
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
        self._deadline = deadline

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Accept that there is no single metric."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's message, None while all workers are busy, or the end."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        if late or not any(self._queues.values()):
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
