"""The commands `status` and `check`: progress of a run, and whether its files are intact.

They change nothing in the run, and import neither torch nor Ray, so they start fast. With `--watch`
each look reads only what was added since the one before. A terminal shows a table that is updated
in place; any other output gets a line with the time for each look at which something has changed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kilobit.cluster.console import Terminal, fitting_table, folded, renews
from kilobit.cluster.driver.live_view import clock_text
from kilobit.cluster.requests import CheckRequest, StatusRequest, wrong_input
from kilobit.cluster.runs.folder import RunFolder, open_run
from kilobit.cluster.runs.fronts import bound_text, progress_text, unjudged_text, unverified_text
from kilobit.cluster.runs.lock import BEAT_S, lock_holder
from kilobit.cluster.runs.progress import ModelProgress, Progress, columns_of, progress_of
from kilobit.evaluators.ledger.compaction import examine
from kilobit.evaluators.ledger.ledger import Following, Ledger
from kilobit.evaluators.ledger.parts import DamagedError, checked
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.ledger.usage import Usage
from kilobit.evaluators.proof.program_files import program_of
from kilobit.evaluators.proof.sandbox import plain
from kilobit.search.records import ProgramRecord, rung_part
from kilobit.search.settings import to_copy

DONE, FAILED, INTERRUPTED = 0, 1, 130
# Limits the share of its time that a watch spends on reading, however long the ledger is.
_LOOKING_SHARE = 0.2
_WORKERS_SHOWN = 8


def status(request: StatusRequest) -> int:
    """Print the progress of a run; with `--watch` repeat it until the run is not locked."""
    watch, console = WatchedRun(request.run), Terminal()
    if request.watch_s is None:
        watch.look()
        _print(console, watch)
        return DONE
    try:
        (_watch_table if renews(console) else _watch_lines)(watch, console, request.watch_s)
    except KeyboardInterrupt:
        # Ctrl-C is the usual way to leave a watch; the run is not affected.
        return INTERRUPTED
    console.print(ending(watch))
    return DONE


def check(request: CheckRequest) -> int:
    """Read every file of a run, print what is wrong and the way on."""
    console, run = Terminal(), open_run(request.run)
    with console.status("reading the files of the run"), wrong_input():
        number, found = examine(run.ledger, partial(_changed_programs, run.ledger))
        card = run.path / "scorecard.parquet"
        whole = not card.exists() or _is_intact(card)
    for line in found:
        console.print(f"damaged: {plain(line)}")
    if found:
        console.print(f"these rungs are computed again by\n  {to_copy('resume', run.path)}")
    if not whole:
        console.print(f"damaged: {card}; measure again by\n  {to_copy('scorecard', run.path)}")
    if found or not whole:
        return FAILED
    console.print(f"{number} files of the ledger were read to the end: all are intact")
    return DONE


def _changed_programs(ledger: Ledger, table: str, rows: pa.Table) -> Iterator[str]:
    """Yield a line for each program in intact rows whose own files are not those recorded."""
    for record in ProgramRecord.all_of(rows) if table == "programs" else ():
        where = ledger.folder / "programs" / f"{rung_part(record.candidate, record.rung)}.*"
        try:
            if program_of(record, ledger.folder, where).digest != record.program:
                yield f"{where}: not the program {record.program}"
        except DamagedError as error:
            yield str(error)


def _is_intact(file: Place) -> bool:
    try:
        checked(file.read_bytes())
    except ValueError:
        return False
    return True


class WatchedRun:
    """A run observed by another process than its driver.

    Args:
        path: its folder.
        clock: seconds.

    Attributes:
        run: the opened run folder, with the sweep and the latest attempt.
        progress: progress at the last look, None before the first.
        holder: text on the attempt that holds the lock, None if the run is not locked.

    Raises:
        InputError: if there is no readable run.
    """

    def __init__(self, path: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self.run: RunFolder = open_run(path)
        self._tables = Following(self.run.ledger, columns_of(self.run.sweep))
        self.progress: Progress | None = None
        self.holder: str | None = None
        self._asked_at = -BEAT_S

    def look(self) -> Progress:
        """Read what was added to the ledger and return the progress of the run.

        Raises:
            InputError: if its ledger can't be read.
            OSError: if its store does not answer.
        """
        # Check the lock first: what its holder wrote before releasing it is then read below.
        now = self._clock()
        if now - self._asked_at >= BEAT_S:
            self._asked_at = now
            self.run = open_run(self._path)
            holder = lock_holder(self.run.path / "ledger")
            self.holder = None if holder is None else plain(str(holder))
        with wrong_input():
            changed = self._tables.look()
        if changed or self.progress is None:
            self.progress = progress_of(self.run.sweep, self._tables)
        return self.progress


def _print(console: Console, watch: WatchedRun, *, watching: bool = False) -> None:
    progress = watch.look()
    console.print(_title(watch))
    for shown in rungs_table(console, progress):
        console.print(shown)
    for shown in models_table(console, progress, watch.run.sweep.targets):
        console.print(shown)
    console.print(_ended(watch, progress))
    for one in progress.usage:
        console.print(usage_line(one))
    for line in (*_pace(watch, progress), *_notes(watch, progress), *_failures(progress)):
        console.print(line)
    if progress.last is not None:
        console.print(f"last rung finished at {progress.last:%Y-%m-%d %H:%M:%S} UTC")
    if watch.holder is not None:
        console.print(_locked(watch))
    elif not watching:
        console.print(_what_next(watch, progress))


def _watch_table(
    watch: WatchedRun, console: Console, every_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    watch.look()
    with Live(view(watch, console), console=console, auto_refresh=False) as live:
        for _ in _looks(watch, every_s, sleep):
            live.update(view(watch, console), refresh=True)


def _watch_lines(
    watch: WatchedRun, console: Console, every_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    before = watch.look()
    _print(console, watch, watching=True)
    for after in _looks(watch, every_s, sleep):
        for line in news(before, after, watch):
            console.print(f"{datetime.now(UTC):%H:%M:%S} {line}")
        before = after


def _looks(watch: WatchedRun, every_s: float, sleep: Callable[[float], None]) -> Iterator[Progress]:
    """Yield the progress of a run again and again, until the run is not locked."""
    while watch.holder is not None:
        began = time.monotonic()
        yield watch.look()
        if watch.holder is not None:
            sleep(max(every_s, (time.monotonic() - began) / _LOOKING_SHARE))


def view(watch: WatchedRun, console: Console) -> RenderableType:
    """Return everything that a terminal shows of a run, to be redrawn in place."""
    progress = watch.look() if watch.progress is None else watch.progress
    lines = [_title(watch), _locked(watch), _ended(watch, progress)]
    lines += [*_pace(watch, progress), *_notes(watch, progress), *_failures(progress)]
    # The most important lines come first, because a short terminal cuts off the end.
    return Group(
        # Printed lines are not cut, but those of a live display are, so they have to be folded.
        folded("\n".join(lines)),
        *models_table(console, progress, watch.run.sweep.targets),
        *rungs_table(console, progress),
        *workers_table(console, progress.usage),
    )


def _notes(watch: WatchedRun, progress: Progress) -> list[str]:
    """Return lines on outputs without a verdict, and on programs that are too long."""
    bound = bound_text(watch.run.sweep, progress.too_long)
    return [*unjudged_text(progress.unjudged), *bound]


def news(before: Progress, after: Progress, watch: WatchedRun) -> list[str]:
    """Return the changes between two looks: one line, and one for each new failure."""
    found = [
        f"rung {new.index}: {new.finished} finished"
        for old, new in zip(before.rungs, after.rungs, strict=True)
        if old.finished != new.finished
    ]
    if before.ended != after.ended:
        found.append(f"{progress_text(after.ended, after.most)} ended")
    for old_model, new_model in zip(before.models, after.models, strict=True):
        if (old_model.best, old_model.front) != (new_model.best, new_model.front):
            found.append(f"{new_model.model}: {_best(new_model)}, {new_model.front} on the front")
    came = {one.worker for one in after.usage} - {one.worker for one in before.usage}
    found += [f"worker {name} is ready" for name in sorted(came)]
    if before.verified != after.verified:
        found.append(f"{after.verified} programs verified")
    lines = ["; ".join([*found, *_pace(watch, after)])] if found else []
    new = after.num_failed - before.num_failed
    return lines + (_failures(after)[:new] if new > 0 else [])


def ending(watch: WatchedRun) -> str:
    """Return the last lines of a watch: why it ended, and the next command."""
    progress = watch.look()
    return _what_next(watch, progress, f": {_ended(watch, progress)}")


def _what_next(watch: WatchedRun, progress: Progress, so_far: str = "") -> str:
    """Return the next command for a run that is not locked."""
    if progress.running or (progress.most is not None and progress.ended < progress.most):
        go_on = to_copy("resume", watch.run.path)
        return f"not running, and not complete{so_far}. Go on with:\n  {go_on}"
    left = unverified_text(sum(one.unverified for one in progress.models), watch.run.path)
    if not left and watch.run.sweep.certify and progress.completed and not progress.certified:
        left = [
            f"not certified; open the sealed split with:\n  {to_copy('certify', watch.run.path)}"
        ]
    shown = "not running, and nothing is left to try. Show the results with:"
    return "\n".join([*left, shown, f"  {to_copy('front', watch.run.path)}"])


def _title(watch: WatchedRun) -> str:
    return f"{watch.run.sweep.name}, attempt {watch.run.attempt}: {watch.run.path}"


def _locked(watch: WatchedRun) -> str:
    return "not running" if watch.holder is None else f"locked by {watch.holder}"


def _ended(watch: WatchedRun, progress: Progress) -> str:
    running = "were in progress" if watch.holder is None else "are in progress"
    return (
        f"{progress_text(progress.ended, progress.most)} ended: "
        f"{progress.completed} completed the last rung, {progress.stopped} stopped before; "
        f"{progress.running} {running}, {progress.verified} programs verified"
    )


def _best(one: ModelProgress) -> str:
    if one.best is None:
        return "no score yet"
    score, bits, examples = one.best
    counted = "net bits" if one.length == "net" else "bits"
    length = "" if bits is None else f" with {bits} {counted}"
    return f"best {score:.3f}{length} on {examples} examples"


def _pace(watch: WatchedRun, progress: Progress) -> list[str]:
    """Return one line on speed and remaining time, or none if the run is not locked."""
    if progress.pace is None or watch.holder is None:
        return []
    now, parts = datetime.now(UTC), [f"{progress.pace.rungs_a_minute:.1f} rungs a minute"]
    times = [
        (progress.pace.ends_at, "left"),
        (progress.pace.budget_ends_at, "of the time budget left"),
    ]
    quiet_s = 0.0 if progress.last is None else (now - progress.last).total_seconds()
    if quiet_s > watch.run.sweep.workers.silent_s:
        # What was finished before says nothing on how it goes on.
        parts = [f"no rung was finished for {clock_text(quiet_s)}"]
        del times[0]
    for at, what in times:
        if at is not None:
            parts.append(f"{clock_text(max(0.0, (at - now).total_seconds()))} {what}")
    return [", ".join(parts)]


def _failures(progress: Progress) -> list[str]:
    return [f"failed: {candidate}: {plain(line)}" for candidate, line in progress.failures]


def rungs_table(console: Console, progress: Progress) -> list[Table | Text]:
    """Return the table of rungs: how many candidates finished each."""
    columns = {
        "rung": [str(rung.index) for rung in progress.rungs],
        "examples": [str(rung.num_examples) for rung in progress.rungs],
        "train steps": [str(rung.train_steps) for rung in progress.rungs],
        "finished": [str(rung.finished) for rung in progress.rungs],
        "failed": [str(rung.failed) for rung in progress.rungs],
    }
    shown = fitting_table(console, columns, ("train steps", "examples", "failed", "finished"))
    if progress.coarser:
        versions = "versions of adapters" if progress.coarser > 1 else "version of an adapter"
        failed = f", {progress.coarser_failed} of them failed" if progress.coarser_failed else ""
        shown.append(folded(f" and {progress.coarser} coarser {versions}{failed}"))
    return shown


def models_table(
    console: Console, progress: Progress, targets: Sequence[float]
) -> list[Table | Text]:
    """Return the table of base models: the best results of each."""
    models = progress.models
    best = [one.best for one in models]
    bits_head = "net bits" if any(one.length == "net" for one in models) else "bits"
    columns = {
        "base model": [one.model for one in models],
        "begun": [str(one.begun) for one in models],
        "ended": [str(one.ended) for one in models],
        "best": ["" if one is None else f"{one[0]:.3f}" for one in best],
        bits_head: ["" if one is None or one[1] is None else str(one[1]) for one in best],
        "examples": ["" if one is None else str(one[2]) for one in best],
        "front": [str(one.front) for one in models],
    }
    reached = [f"≥ {target:g}" for target in targets]
    for index, head in enumerate(reached):
        bits = [one.shortest[index] for one in models]
        columns[head] = ["" if one is None else str(one) for one in bits]
    least_needed = ("examples", "begun", "front", "ended", *reversed(reached), bits_head, "best")
    title = f"best score so far; fewest {bits_head} that reach each target score"
    return fitting_table(console, columns, least_needed, title)


def workers_table(console: Console, usage: Sequence[Usage]) -> list[Table | Text]:
    """Return the table of the least busy workers, which are the ones to look into."""
    shown = sorted(usage, key=lambda one: one.compute_share)[:_WORKERS_SHOWN]
    columns = {
        "worker": [one.worker for one in shown],
        "computing": [f"{one.compute_share:.0%}" for one in shown],
        "idle": [f"{one.idle_s:.0f} s" for one in shown],
        "tokens": [str(one.trained + one.generated) for one in shown],
        "model GFLOP/s": [_speed(one) for one in shown],
    }
    if len(usage) > _WORKERS_SHOWN:
        mean = sum(one.compute_share for one in usage) / len(usage)
        for head, cell in zip(columns, (f"all {len(usage)}", f"{mean:.0%}"), strict=False):
            columns[head].append(cell)
        for head in ("idle", "tokens", "model GFLOP/s"):
            columns[head].append("")
    return fitting_table(console, columns, ("tokens", "model GFLOP/s", "idle", "computing"))


def usage_line(one: Usage) -> str:
    """Return a line on how a worker spent its time, with its tokens and speed."""
    seconds = {
        "loading": one.load_s,
        "training": one.train_s,
        "generating": one.generate_s,
        "coding": one.code_s,
        "other": one.other_s,
        "idle": one.idle_s,
    }
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    speed = f", {_speed(one)} model GFLOP/s" if _speed(one) else ""
    return (
        f"{one.worker}: {spent}; {one.trained + one.generated} tokens{speed}; computing "
        f"{one.compute_share:.0%} of the time since it was ready"
    )


def _speed(one: Usage) -> str:
    compute_s = one.train_s + one.generate_s
    return f"{one.flops / compute_s / 1e9:.2f}" if compute_s else ""
