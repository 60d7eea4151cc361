"""One attempt at a run, from a checked sweep to a finished ledger.

Results of earlier attempts are read from the ledger: their decisions stand, candidates that ended
are not tried again, and candidates between two rungs resume at the later one.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from rich.console import Console

from kilobit.cluster.console import Bar
from kilobit.cluster.driver.check import Plan
from kilobit.cluster.driver.live_view import LiveProgress, LiveView
from kilobit.cluster.driver.recorder import Recorder
from kilobit.cluster.driver.replay import Replayed, replay
from kilobit.cluster.driver.trackers import Tracking, finishing, make_trackers
from kilobit.cluster.driver.trial import Trials
from kilobit.cluster.driver.tune import RecordedScheduler, RecordedSearcher, StopRequest, run_trials
from kilobit.cluster.fleet.pool import Pool
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import StoppedError, last_line
from kilobit.cluster.runs.folder import RunFolder
from kilobit.evaluators.ledger.usage import searched_s
from kilobit.search.candidate import GIVEN, Candidate
from kilobit.search.proposers.proposer import ReplayError
from kilobit.search.proposers.random import ShortFirst
from kilobit.search.records import CandidateRecord, DecisionRecord, RungRecord
from kilobit.search.schedulers.scheduler import Decision
from kilobit.search.search import Search, make_proposer, make_scheduler
from kilobit.search.settings import InputError

_LOG = logging.getLogger("kilobit")


@dataclass
class Outcome:
    """Result of an attempt.

    Attributes:
        seconds: wall-clock seconds by phase.
        lost: errors of trials that left no row, e.g. because the ledger could not be written.
        uncertified: programs that failed on the sealed split, or the reason why it was not opened.
        unproven: the reason why programs could not be verified or certified, empty if they were.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    uncertified: list[str] = field(default_factory=list)
    unproven: str = ""


def execute(
    run: RunFolder,
    plan: Plan,
    console: Console,
    address: str | None = None,
    look: Callable[[], None] = lambda: None,
    take: Callable[[], Pool | None] = lambda: None,
) -> Outcome:
    """Search until nothing is left to try or the time budget is used up.

    Args:
        run: the run.
        plan: its checked sweep.
        console: where progress is shown.
        address: of the cluster to search on; this machine without one.
        look: called before the search, and whenever a candidate has completed the last rung.
        take: returns workers that have been started already, None if there are none.

    Raises:
        InputError, PoolError: if the workers can't be started, or the ledger does not match the
            sweep.
        StoppedError: if the ledger can't be written any more, or belongs to a newer attempt.
        KeyboardInterrupt: on Ctrl-C; the ledger is then complete up to the last finished rung.
    """
    outcome, began = Outcome(), time.monotonic()
    models = [model.label for model in run.sweep.base_models]
    recorder, state = _rebuild(run, plan)
    left_s = _left_s(run)
    if left_s is not None and left_s <= 0:
        return outcome
    if not _find_work(recorder, state, models):
        console.print("Every candidate has ended already: nothing is left to do.")
        return outcome
    trackers = make_trackers(run, console.print)
    look()
    with ray_session(address):
        outcome.seconds["start Ray"] = time.monotonic() - began
        began = time.monotonic()
        local = address is None
        pool = take() or Pool(run.sweep, run.sweep_folder, run.path, run.attempt, local=local)
        try:
            _wait_for_workers(pool, console)
            outcome.seconds["load models"] = time.monotonic() - began
            began = time.monotonic()
            _search(run, plan, recorder, state, pool, console, outcome, trackers, left_s, look)
        finally:
            pool.stop()
        outcome.seconds["search"] = time.monotonic() - began
    return outcome


def _rebuild(run: RunFolder, plan: Plan) -> tuple[Recorder, Replayed]:
    """Rebuild the search from its ledger and decide every row that is still undecided."""
    sweep = run.sweep
    models = [model.label for model in sweep.base_models]
    about = sweep.families, plan.task, models, sweep.seed, plan.templates
    proposer = make_proposer(sweep.proposer, *about)
    if sweep.order == "short_first" and plan.candidates:
        proposer = ShortFirst(proposer, plan.bound_bits)
    scheduler = make_scheduler(sweep.scheduler, sweep.rungs)
    _check_given(run, plan)
    search = Search(proposer, scheduler, sweep.minimised, sweep.budget.candidates, plan.first)
    try:
        state = replay(run.ledger, search)
    except ReplayError as error:
        raise InputError(f"{run.path} can't be resumed: {error}") from error
    recorder = Recorder(run, plan, search, state, _log)
    for record in state.undecided:
        state.take(recorder.decide(record))
    return recorder, state


def _check_given(run: RunFolder, plan: Plan) -> None:
    """Check that the candidates that the sweep gives are still those of earlier attempts.

    Raises:
        InputError: naming the first one that has changed.
    """
    columns = ["candidate", "task", "model", "regime", "family", "operator", "position"]
    rows = [one for one in run.ledger.records(CandidateRecord, columns) if one.operator == GIVEN]
    rows.sort(key=lambda one: one.position or 0)
    for model in run.sweep.base_models:
        before = [one.candidate for one in rows if one.model == model.label]
        now = [one.id for one in plan.first if one.model == model.label and one.id in plan.sources]
        for was, found in zip_longest(before, now[: len(before)]):
            if was != found:
                source = plan.sources.get(found or "", "families.given")
                raise InputError(
                    f"{run.path} can't be resumed: {source} has changed since the run began; "
                    "begin a new run"
                )


def _left_s(run: RunFolder) -> float | None:
    """Return the seconds that earlier attempts left of the time budget, None if it has no limit."""
    if run.sweep.budget.seconds is None:
        return None
    columns = ["candidate", "rung", "num_examples", "attempt", "seconds", "finished_at"]
    return run.sweep.budget.seconds - searched_s(run.ledger.records(RungRecord, columns))


def _find_work(recorder: Recorder, state: Replayed, models: Sequence[str]) -> bool:
    """Propose a candidate for each idle model, and return whether any candidate is left to run."""
    busy = {candidate.model for candidate in recorder.pending(state)}
    for model in models:
        candidate = None if model in busy else recorder.propose(model)
        if candidate is not None:
            state.next_rung[candidate.id] = recorder.first_rung
    return bool(state.next_rung)


def _log(record: RungRecord, candidate: Candidate, decision: Decision, reason: str) -> None:
    _LOG.log(
        logging.WARNING if record.error else logging.INFO,
        "%s %s rung %d score %s payload bits %s: %s, %s",
        candidate.model,
        decision.candidate,
        decision.rung,
        record.score,
        record.payload_bits,
        decision.action,
        reason,
    )
    if record.error:
        _LOG.debug("%s rung %d: %s", decision.candidate, decision.rung, record.error)


def _wait_for_workers(pool: Pool, console: Console) -> None:
    total, told = len(pool.workers), ""
    with Bar(console, f"loading base models into {total} workers", total) as bar:

        def on_change(ready: int, waits_for: str) -> None:
            nonlocal told
            waiting = f"; {waits_for}" if waits_for else ""
            _LOG.info("%d of %d workers have loaded their base model%s", ready, total, waiting)
            bar.reach(ready)
            if waits_for and waits_for != told:
                console.print(waits_for)
                told = waits_for

        pool.wait_for_enough(on_change)


def _search(
    run: RunFolder,
    plan: Plan,
    recorder: Recorder,
    state: Replayed,
    pool: Pool,
    console: Console,
    outcome: Outcome,
    trackers: Sequence[Tracking],
    left_s: float | None,
    look: Callable[[], None],
) -> None:
    pending = [(c, state.next_rung[c.id]) for c in recorder.pending(state)]
    total = plan.num_candidates
    # The budget may be smaller than the number of candidates proposed before.
    most = None if total is None else max(total, recorder.num_proposed)
    course = LiveProgress(most, run.sweep.rungs.count, time.monotonic, left_s)
    course.take_earlier(
        run.ledger.records(RungRecord, ["candidate", "rung", "num_examples", "error"]),
        run.ledger.records(DecisionRecord, ["candidate", "rung", "decision"]),
    )
    stop_request = StopRequest(None if left_s is None else time.monotonic() + left_s)
    with LiveView(course, console) as view:

        def listener(
            record: RungRecord, candidate: Candidate, decision: Decision, reason: str
        ) -> None:
            course.add(candidate.model, record, decision)
            _log(record, candidate, decision, reason)
            view.update()
            if decision.action == "finish":
                look()

        recorder.listener = listener
        searcher = RecordedSearcher(
            recorder,
            pending,
            pool.workers,
            {model: own.slots for model, own in run.sweep.workers_by_model.items()},
            stop_request,
            pool.here,
            pool.tell,
            pool.release,
            state.later,
        )
        scheduler = RecordedScheduler(
            recorder, stop_request, searcher.promoted, searcher.promoted_for_later
        )
        with finishing(trackers):
            trials = Trials(run.sweep.rungs.ladder(), run.ledger, lambda: pool.watch(console.print))
            errors = run_trials(searcher, scheduler, trials, trackers)
    for error in errors:
        _LOG.error("a trial left no result: %s", str(error).strip() or type(error).__name__)
        outcome.lost.append(last_line(error))
    if stop_request.reason is not None:
        raise StoppedError(stop_request.reason)
