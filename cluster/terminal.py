"""What is printed for a person: plain lines, also where nobody reads them any more."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

_UNBOUNDED = 10_000


class Terminal(Console):
    """A console whose reader may leave (`| head -1`): what it says goes nowhere then.

    Whatever is done goes on, and its result and exit status are what they would have been.
    """

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, markup=False)

    def on_broken_pipe(self) -> None:
        """Say no more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def wide_table(
    console: Console,
    heads: Iterable[str],
    rows: Iterable[Sequence[str | Text]],
    title: str | None = None,
) -> Table:
    """Return a table as wide as it has to be, whatever the terminal."""
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
    """Return a table that cuts nothing, and below it which columns a terminal has no room for.

    Args:
        console: where it is shown; where that is no terminal, every column is.
        columns: cells by head.
        least_needed: heads of what may be left out, in this order.
        title: what stands above.
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
    """Return lines that go on in the next where they are longer than a terminal."""
    return Text(text, no_wrap=False, overflow="fold")


def stderr_console() -> Console:
    """Return a console for what is said beside a result that a program may read."""
    return Console(stderr=True, soft_wrap=True, markup=False)


def renews(console: Console) -> bool:
    """Return whether a console can show something again in its place, as bars and tables need."""
    return console.is_terminal and not console.is_dumb_terminal


def plain(text: str) -> str:
    """Return a text from elsewhere without what would steer a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
