"""Output on a terminal: consoles, tables and safe text; a closed pipe is not an error."""

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
    """A console that falls silent when its output pipe is closed (`| head -1`).

    The command continues, and its result and exit status stay the same.
    """

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, markup=False)

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    return Console(stderr=True, soft_wrap=True, markup=False)


def renews(console: Console) -> bool:
    """Return whether a console can redraw in place, as progress bars and live tables need."""
    return console.is_terminal and not console.is_dumb_terminal


def plain(text: str) -> str:
    """Return an untrusted text without characters that could control a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
