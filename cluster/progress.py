"""Progress display for work of more than a few seconds: a bar, or lines without a terminal.

Time is passed in, so tests advance it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cluster.terminal import renews

_PLAIN_EVERY_S = 10.0
Item = TypeVar("Item")


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
        elif changed and self._clock() - self._told_at >= _PLAIN_EVERY_S:
            self._told_at = self._clock()
            self._console.print(f"{self._doing}: {done} of {self._total}")


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
