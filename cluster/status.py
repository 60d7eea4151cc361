"""The command status: how far a run is, once or again and again until nobody holds it.

Nothing here changes a run, and nothing imports torch or Ray, so it answers at once. A watch reads
only what came since its last look. On a terminal it renews a table; elsewhere it prints a line with
the time where something has changed, and nothing where not.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from cluster.attempts import BEAT_S, holder_of
from cluster.live import clock_text
from cluster.run_folder import RunFolder, open_run
from cluster.show import progress
from cluster.standing import COLUMNS, ModelStanding, Standing, standing_of
from cluster.terminal import Terminal, plain, renews
from evaluators.following import Following
from evaluators.storage import Place
from evaluators.usage import Usage
from search.sweep import SweepError

DONE, INTERRUPTED = 0, 130
_WORKERS_SHOWN = 8
# Looking takes at most this share of a watcher's time, however long a ledger has become.
_LOOKING_SHARE = 0.2


def status(args: argparse.Namespace) -> int:
    """Print how far a run is; with `--watch` until nobody holds it any more."""
    watch, console = Watch(args.run), Terminal()
    if args.watch is None:
        watch.look()
        _print(console, watch)
        return DONE
    try:
        (_watch_table if renews(console) else _watch_lines)(watch, console, args.watch)
    except KeyboardInterrupt:
        # Who watches leaves this way; the run does not notice.
        return INTERRUPTED
    console.print(ending(watch))
    return DONE


class Watch:
    """A run that is looked at from outside.

    Args:
        path: its folder.
        clock: seconds.

    Attributes:
        run: what was asked for, and by which attempt.
        standing: how far it was at the last look.
        holder: who holds it, None if nobody does.

    Raises:
        SweepError: if there is no readable run.
    """

    def __init__(self, path: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self.run: RunFolder = open_run(path)
        self._tables = Following(self.run.ledger, COLUMNS)
        self.standing: Standing | None = None
        self.holder: str | None = None
        self._asked_at = -BEAT_S

    def look(self) -> Standing:
        """Return how far the run is.

        Raises:
            SweepError: if its ledger can't be read.
            OSError: if its store does not answer.
        """
        # First: what it wrote before it let go is then seen in the same look.
        now = self._clock()
        if now - self._asked_at >= BEAT_S:
            self._asked_at = now
            self.run = open_run(self._path)
            holder = holder_of(self.run.path / "ledger")
            self.holder = None if holder is None else plain(str(holder))
        try:
            changed = self._tables.look()
        except ValueError as error:
            raise SweepError(str(error)) from error
        if changed or self.standing is None:
            self.standing = standing_of(self.run.sweep, self._tables.rows)
        return self.standing


def _print(console: Console, watch: Watch, *, watching: bool = False) -> None:
    standing = watch.look()
    console.print(_title(watch))
    console.print(_rungs(standing))
    console.print(_models(standing, watch.run.sweep.targets))
    console.print(_ended(standing))
    for one in standing.usage:
        console.print(_usage_line(one))
    for line in (*_pace(watch, standing), *_failures(standing)):
        console.print(line)
    if standing.last is not None:
        console.print(f"last rung finished at {standing.last:%Y-%m-%d %H:%M:%S} UTC")
    if watch.holder is not None or not watching:
        console.print(_held(watch))


def _watch_table(
    watch: Watch, console: Console, every_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    watch.look()
    with Live(view(watch), console=console, auto_refresh=False) as live:
        while watch.holder is not None:
            began = time.monotonic()
            watch.look()
            live.update(view(watch), refresh=True)
            if watch.holder is not None:
                sleep(_pause(every_s, time.monotonic() - began))


def _watch_lines(
    watch: Watch, console: Console, every_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    before = watch.look()
    _print(console, watch, watching=True)
    while watch.holder is not None:
        began = time.monotonic()
        after = watch.look()
        for line in news(before, after, watch):
            console.print(f"{datetime.now(UTC):%H:%M:%S} {line}")
        before = after
        if watch.holder is not None:
            sleep(_pause(every_s, time.monotonic() - began))


def _pause(every_s: float, looking_s: float) -> float:
    return max(every_s, looking_s / _LOOKING_SHARE)


def view(watch: Watch) -> RenderableType:
    """Return all that a terminal shows of a run, to be shown again in its place."""
    standing = watch.look() if watch.standing is None else watch.standing
    lines = [_title(watch), _held(watch), _ended(standing)]
    lines += [*_pace(watch, standing), *_failures(standing)]
    # A terminal with few lines shows the first of them.
    return Group(
        # The console cuts no line of what is only printed; here every line has to fit.
        Text("\n".join(lines), no_wrap=False, overflow="fold"),
        _models(standing, watch.run.sweep.targets),
        _rungs(standing),
        _workers(standing.usage),
    )


def news(before: Standing, after: Standing, watch: Watch) -> list[str]:
    """Return what has changed between two looks: one line, and one for each new failure."""
    found = [
        f"rung {new.index}: {new.finished} finished"
        for old, new in zip(before.rungs, after.rungs, strict=True)
        if old.finished != new.finished
    ]
    if before.ended != after.ended:
        found.append(f"{progress(after.ended, after.most)} ended")
    for old_model, new_model in zip(before.models, after.models, strict=True):
        if (old_model.best, old_model.front) != (new_model.best, new_model.front):
            found.append(f"{new_model.model}: {_best(new_model)}, {new_model.front} on the front")
    came = {one.worker for one in after.usage} - {one.worker for one in before.usage}
    found += [f"worker {name} is there" for name in sorted(came)]
    if before.verified != after.verified:
        found.append(f"{after.verified} programs verified")
    lines = ["; ".join([*found, *_pace(watch, after)])] if found else []
    new = after.num_failed - before.num_failed
    return lines + (_failures(after)[:new] if new > 0 else [])


def ending(watch: Watch) -> str:
    """Return why there is nothing more to watch."""
    standing = watch.look()
    if standing.running or (standing.most is not None and standing.ended < standing.most):
        return (
            f"nobody holds it, and it is not complete: {_ended(standing)}. Go on with:\n"
            f"  kilobit resume {watch.run.path}"
        )
    return (
        "nobody holds it, and nothing is left to try. Look at what was found with:\n"
        f"  kilobit front {watch.run.path}"
    )


def _title(watch: Watch) -> str:
    return f"{watch.run.sweep.name}, attempt {watch.run.attempt}: {watch.run.path}"


def _held(watch: Watch) -> str:
    return "nobody holds it" if watch.holder is None else f"held by {watch.holder}"


def _ended(standing: Standing) -> str:
    return (
        f"{progress(standing.ended, standing.most)} ended: {standing.completed} completed the last "
        f"rung, {standing.stopped} stopped before; {standing.running} are running, "
        f"{standing.verified} programs verified"
    )


def _table(*heads: str, title: str | None = None) -> Table:
    columns = (Column(head, no_wrap=True) for head in heads)
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _rungs(standing: Standing) -> Table:
    table = _table("rung", "examples", "train steps", "finished", "failed")
    for rung in standing.rungs:
        numbers = (rung.index, rung.num_examples, rung.train_steps, rung.finished, rung.failed)
        table.add_row(*map(str, numbers))
    return table


def _models(standing: Standing, targets: Sequence[float]) -> Table:
    heads = ("base model", "begun", "ended", "best", "bits", "examples", "front")
    reached = (f"≥ {target:g}" for target in targets)
    table = _table(*heads, *reached, title="best score so far; bits at which a score is reached")
    for one in standing.models:
        score, bits, examples = one.best or (None, "", "")
        best = ("" if score is None else f"{score:.3f}", str(bits), str(examples))
        shortest = ("" if bits is None else str(bits) for bits in one.shortest)
        numbers = (str(one.begun), str(one.ended), *best, str(one.front))
        table.add_row(one.model, *numbers, *shortest)
    return table


def _best(one: ModelStanding) -> str:
    if one.best is None:
        return "no score yet"
    score, bits, examples = one.best
    return f"best {score:.3f} with {bits} bits on {examples} examples"


def _pace(watch: Watch, standing: Standing) -> list[str]:
    """Return how fast the run is and how long it will take; nothing where nobody holds it."""
    if standing.pace is None or watch.holder is None:
        return []
    now, parts = datetime.now(UTC), [f"{standing.pace.rungs_a_minute:.1f} rungs a minute"]
    for at, what in (
        (standing.pace.ends_at, "left"),
        (standing.pace.budget_ends_at, "of the time budget left"),
    ):
        if at is not None:
            parts.append(f"{clock_text(max(0.0, (at - now).total_seconds()))} {what}")
    return [", ".join(parts)]


def _failures(standing: Standing) -> list[str]:
    return [f"failed: {candidate}: {plain(line)}" for candidate, line in standing.failures]


def _usage_line(one: Usage) -> str:
    """Return what a worker did with its seconds, and how much of it its model computed."""
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


def _workers(usage: Sequence[Usage]) -> Table:
    table = _table("worker", "computing", "idle", "tokens", "model GFLOP/s")
    # Of many the least busy are what somebody has to look at.
    for one in sorted(usage, key=lambda one: one.compute_share)[:_WORKERS_SHOWN]:
        tokens = str(one.trained + one.generated)
        share, idle = f"{one.compute_share:.0%}", f"{one.idle_s:.0f} s"
        table.add_row(one.worker, share, idle, tokens, _speed(one))
    if len(usage) > _WORKERS_SHOWN:
        mean = sum(one.compute_share for one in usage) / len(usage)
        table.add_row(f"all {len(usage)}", f"{mean:.0%}", "", "", "")
    return table
