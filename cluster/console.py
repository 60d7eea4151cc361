"""Terminal output: progress bars, spinners and tables, and plain lines without a terminal.

Work of more than a few seconds shows a bar, or lines where there is no terminal. Time is passed in,
so tests advance it. A closed pipe is not an error.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from types import TracebackType
from typing import Any, TypeVar

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from kilobit.evaluators.proof.sandbox import plain

_PLAIN_EVERY_S, _NOTEBOOK_EVERY_S = 10.0, 1.0
_NOTEBOOK_LINES = 20
Item = TypeVar("Item")
_UNBOUNDED = 10_000


class Bar:
    """Progress bar; a context manager, safe to use from several threads.

    On a terminal it is a bar that disappears at the end. Elsewhere it is a line at the beginning,
    and then at most one every ten seconds, if there was progress.

    Args:
        console: where to print.
        doing: name of the work, shown to the user.
        total: number of items.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        console: Console,
        doing: str,
        total: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._doing, self._total, self._clock = console, doing, total, clock
        self._done, self._told_at = 0, clock()
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        if renews(console):
            self._bar = Progress(
                # Names of tasks and models must not be read as markup.
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("elapsed,"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(doing, total=total)

    def __enter__(self) -> "Bar":
        if self._bar is None:
            self._console.print(self._doing)
        else:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """Count one more item as done."""
        with self._lock:
            self._show(self._done + 1)

    def reach(self, done: int) -> None:
        """Set the number of items that are done."""
        with self._lock:
            self._show(done)

    def _show(self, done: int) -> None:
        changed, self._done = done != self._done, done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif changed and self._clock() - self._told_at >= pause_s(self._console):
            self._told_at = self._clock()
            tell(self._console, f"{self._doing}: {done} of {self._total}")


def followed(results: Iterable[Item], doing: str, number: int, console: Console) -> Iterator[Item]:
    """Yield `results` and show how many of `number` have arrived."""
    with Bar(console, doing, number) as bar:
        for result in results:
            # Advance first: the consumer of the result may print.
            bar.advance()
            yield result


@contextmanager
def waiting(console: Console, doing: str) -> Iterator[None]:
    """Show a spinner for work of unknown length; without a terminal, print a line."""
    if renews(console):
        with console.status(doing):
            yield
    else:
        console.print(doing)
        yield


class _Screen(Console):
    """A console that shows letters and nothing that could control a terminal.

    Names of tasks and outputs of models are texts of other people.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Yield the segments of what is shown."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield segment._replace(text=plain(segment.text))


class Terminal(_Screen):
    """A console that falls silent when its output pipe is closed (`| head -1`).

    The command continues, and its result and exit status stay the same.
    """

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Notebook(_Screen):
    """A console that rewrites one output: the latest messages, and below how far the work is.

    Args:
        show: shows a text in place of the text before.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(file=StringIO(), force_jupyter=False)
        self._show_text = show
        self._messages: deque[str] = deque(maxlen=_NOTEBOOK_LINES)

    def print(self, *objects: Any, **how: Any) -> None:
        """Show a message below the latest ones."""
        with self.capture() as captured:
            super().print(*objects, **how)
        self._messages.append(captured.get().rstrip("\n"))
        self._show_text("\n".join(self._messages))

    def renew(self, line: str) -> None:
        """Show how far the work is, until the next message or line."""
        self._show_text("\n".join([*self._messages, line]))


def tell(console: Console, line: str) -> None:
    """Print how far work is; a notebook replaces the line before."""
    if isinstance(console, Notebook):
        console.renew(line)
    else:
        console.print(line, soft_wrap=True)


def pause_s(console: Console) -> float:
    """Return the least seconds between two such lines."""
    return _NOTEBOOK_EVERY_S if isinstance(console, Notebook) else _PLAIN_EVERY_S


def wide_table(
    console: Console,
    heads: Iterable[str],
    rows: Iterable[Sequence[str | Text]],
    title: str | None = None,
) -> Table:
    """Return a table as wide as its content, whatever the width of the terminal."""
    table = Table(
        *(Column(head, no_wrap=True) for head in heads),
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for row in rows:
        table.add_row(*row)
    unbounded = console.options.update(max_width=_UNBOUNDED)
    table.width = Measurement.get(console, unbounded, table).maximum
    return table


def fitting_table(
    console: Console,
    columns: Mapping[str, Sequence[str | Text]],
    least_needed: Iterable[str],
    title: str | None = None,
) -> list[Table | Text]:
    """Return a table that cuts no cell, and a line that lists the columns without room.

    Args:
        console: where it is shown; if that is not a terminal, no column is left out.
        columns: cells by heading.
        least_needed: headings of the columns that may be left out, in this order.
        title: the line above the table.
    """
    shown, left_out = dict(columns), list[str]()
    table = wide_table(console, shown, zip(*shown.values(), strict=True), title)
    for head in least_needed:
        if console.is_terminal and head in shown and (table.width or 0) > console.width:
            del shown[head]
            left_out.append(head)
            table = wide_table(console, shown, zip(*shown.values(), strict=True), title)
    return [table, folded(f"  not shown here: {', '.join(left_out)}")] if left_out else [table]


def folded(text: str) -> Text:
    """Return text whose lines wrap at the width of the terminal."""
    return Text(text, no_wrap=False, overflow="fold")


def stderr_console() -> Console:
    """Return a console on stderr, for messages beside a result that a program may read."""
    return _Screen(stderr=True)


def renews(console: Console) -> bool:
    """Return whether a console can redraw in place, as progress bars and live tables need."""
    return console.is_terminal and not console.is_dumb_terminal
