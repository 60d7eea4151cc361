"""One attempt at a run, from a checked sweep to a finished ledger.

What an earlier attempt finished is taken from the ledger: its decisions stand, candidates that
ended are not tried again, and candidates between two rungs go on from the later one.
"""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from cluster.capacity import TRIAL_CPUS, workers_of
from cluster.check import Plan
from cluster.live import Course, LiveView
from cluster.messages import Worker
from cluster.pool import start_pool
from cluster.run_folder import RunFolder
from cluster.session import ray_session
from cluster.tune_adapter import HalvingScheduler, QueueSearcher, Recorder, run_trials
from evaluators.ledger import Ledger
from search.candidate import Candidate
from search.halving import Decision, Halving
from search.programs.text import compress

_LOG = logging.getLogger("kilobit")


@dataclass
class Outcome:
    """How an attempt ended.

    Attributes:
        seconds: wall-clock seconds by phase.
        lost: errors of trials that left no row, e.g. because the ledger could not be written.
        uncertified: programs that failed on the sealed split, or why it was not opened.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    uncertified: list[str] = field(default_factory=list)


def execute(run: RunFolder, plan: Plan, console: Console, address: str | None = None) -> Outcome:
    """Search until all candidates ended or the time budget is used up.

    Raises:
        SweepError, PoolError: if the workers can't be started.
        KeyboardInterrupt: on Ctrl-C; the ledger is then complete up to the last finished rung.
    """
    outcome, began = Outcome(), time.monotonic()
    ledger = run.ledger
    _write_candidates(ledger, run, plan)
    halving = Halving(
        num_rungs=run.sweep.rungs.count,
        eta=run.sweep.rungs.eta,
        length_aware=run.sweep.scheduler.length_aware,
    )
    queue = _pending(ledger, plan, halving, run.sweep.length)
    if not queue:
        console.print("Every candidate has ended already: nothing is left to do.")
        return outcome
    with ray_session(address):
        outcome.seconds["start Ray"] = time.monotonic() - began
        began = time.monotonic()
        pool = _start_workers(run, console)
        outcome.seconds["load models"] = time.monotonic() - began
        began = time.monotonic()
        try:
            _search(run, queue, halving, console, outcome)
        finally:
            pool.clear()
            shutil.rmtree(run.path / ".tune", ignore_errors=True)
        outcome.seconds["search"] = time.monotonic() - began
    return outcome


def _write_candidates(ledger: Ledger, run: RunFolder, plan: Plan) -> None:
    regimes = {model.label: model.regime for model in run.sweep.base_models}
    rows = [
        {
            "candidate": candidate.id,
            "task": candidate.task,
            "model": candidate.model,
            "regime": regimes[candidate.model],
            "family": candidate.family,
            "spec": candidate.canonical(),
            "seed": run.sweep.seed,
            "estimated_bits": _bits_before_training(candidate, plan),
            "position": position,
        }
        for position, candidate in enumerate(plan.candidates)
    ]
    ledger.write("candidates", "all", rows)


def _bits_before_training(candidate: Candidate, plan: Plan) -> int | None:
    """Return an upper bound of the payload's length where one is known before training."""
    if candidate.adapter is not None:
        return None
    text = candidate.prompt.render(plan.task).encode()
    return 8 * min(map(len, compress(text).values())) if text else 0


def _pending(
    ledger: Ledger, plan: Plan, halving: Halving, length: str
) -> list[tuple[Candidate, int]]:
    """Replay recorded decisions into `halving`; return who is left and from which rung."""
    models = {candidate.id: candidate.model for candidate in plan.candidates}
    results = {(row["candidate"], row["rung"]): row for row in ledger.rows("rungs")}
    next_rung = dict.fromkeys(models, 0)
    decided = sorted(ledger.rows("decisions"), key=lambda row: row["decided_at"])
    for row in decided:
        result = results.get((row["candidate"], row["rung"]))
        if result is None or row["candidate"] not in models:
            continue
        halving.report(
            row["candidate"],
            model=models[row["candidate"]],
            rung=row["rung"],
            score=result["score"],
            bits=result[f"{length}_bits"],
        )
        # What was recorded stands, whatever order the rows are replayed in.
        if row["decision"] == "promote":
            next_rung[row["candidate"]] = row["rung"] + 1
        else:
            del next_rung[row["candidate"]]
    return [(c, next_rung[c.id]) for c in plan.candidates if c.id in next_rung]


def _start_workers(run: RunFolder, console: Console) -> list[Any]:
    total, ready = len(workers_of(run.sweep)), 0
    if not console.is_terminal:
        console.print(f"loading base models into {total} workers")
    with console.status(f"loading base models: 0 of {total} workers ready") as status:

        def on_ready(worker: Worker) -> None:
            nonlocal ready
            ready += 1
            _LOG.info("worker %s holds %s", worker.name, worker.model)
            status.update(f"loading base models: {ready} of {total} workers ready")

        return start_pool(run.sweep, run.sweep_folder, run.path, run.attempt, on_ready)


def _search(
    run: RunFolder,
    queue: list[tuple[Candidate, int]],
    halving: Halving,
    console: Console,
    outcome: Outcome,
) -> None:
    models = {candidate.id: candidate.model for candidate, _ in queue}
    course = Course(len(queue), run.sweep.rungs.count, time.monotonic)
    budget = run.sweep.budget.seconds
    deadline = None if budget is None else time.monotonic() + budget
    with LiveView(course, console) as view:

        def listener(row: Mapping[str, Any], decision: Decision, reason: str) -> None:
            course.add(models[decision.candidate], row, decision)
            _LOG.info(
                "%s %s rung %d score %s bits %s: %s, %s",
                models[decision.candidate],
                decision.candidate,
                decision.rung,
                row.get("score"),
                row.get("payload_bits"),
                decision.action,
                reason,
            )
            view.update()

        recorder = Recorder(halving, run.ledger, run.attempt, models, run.sweep.length, listener)
        searcher = QueueSearcher(
            queue,
            workers_of(run.sweep),
            run.sweep.rungs.ladder(),
            str(run.path),
            run.attempt,
            deadline,
        )
        errors = run_trials(
            searcher,
            HalvingScheduler(recorder, deadline),
            len(queue),
            TRIAL_CPUS,
            run.path / ".tune",
        )
    for error in errors:
        text = str(error).strip() or type(error).__name__
        _LOG.error("a trial left no result: %s", text)
        outcome.lost.append(text.splitlines()[-1])
