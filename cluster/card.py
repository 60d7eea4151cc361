"""The scorecard in the terminal: programs in rows, items in columns, harm in red."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from cluster.terminal import wide_table
from evaluators.paired import LEVEL
from search.cost import Line, trades

# Signs beside colours, for terminals and readers without colours.
_SHOWN = {"harms": ("red", " ▼"), "helps": ("green", " ▲"), None: ("", "")}


def print_card(console: Console, lines: Sequence[Line], missing: Mapping[str, str]) -> None:
    """Print a table for each base model, the unavailable items, and each program's trade-offs.

    Args:
        console: the console to print to.
        lines: measured changes, with verdicts.
        missing: items that are not available on this machine, with the reason.
    """
    models = dict.fromkeys((line.task, line.model) for line in lines)
    for task, model in models:
        _print_model(console, [line for line in lines if (line.task, line.model) == (task, model)])
    whole = [line for line in lines if line.tag is None]
    tested = sum(line.p is not None for line in whole)
    console.print(
        "Each change is against the bare base model on the same examples, with its own 95 % "
        f"interval. ▼ harms and ▲ helps beyond noise: the probability of any wrong mark among "
        f"all {tested} comparisons is at most {LEVEL:g}."
    )
    for item, why in missing.items():
        console.print(f"not available: {item}: {why}")
    for line in whole:
        if line.error is not None and line.item not in missing:
            console.print(f"failed: {line.candidate} on {line.item}: {line.error}")
    _print_trades(console, whole)


def _print_model(console: Console, lines: Sequence[Line]) -> None:
    found = [line for line in lines if line.error is None]
    items = list(dict.fromkeys(line.item for line in found if line.tag is None))
    by_program: dict[str, dict[tuple[str, str | None], Line]] = {}
    for line in lines:
        by_program.setdefault(line.candidate, {})[line.item, line.tag] = line
    first = lines[0]
    bases = {line.item: line for line in found if line.tag is None}
    rows: list[list[str | Text]] = [
        ["bare", "", "", *(_number(bases[item].base, signed=False) for item in items)]
    ]
    for cells in by_program.values():
        about = next(iter(cells.values()))
        certified = {None: "", True: "yes", False: "no"}[about.certified]
        own = [str(about.program_bits), f"{about.own_score:.3f}", certified]
        rows.append([*own, *(_cell(cells.get((item, None))) for item in items)])
    title = f"{first.task}, {first.model}: change against the bare base model"
    console.print(wide_table(console, ("bits", "score", "certified", *items), rows, title))
    _print_parts(console, [line for line in found if line.tag is not None])


def _print_parts(console: Console, lines: Sequence[Line]) -> None:
    """Print the bare model's value in each part of an item, and the programs that change it."""
    by_item: dict[str, list[Line]] = {}
    for line in lines:
        by_item.setdefault(line.item, []).append(line)
    for item, parts in by_item.items():
        bare = {line.tag: line for line in parts}
        each = (f"{tag} {_number(one.base, signed=False)}" for tag, one in sorted(bare.items()))
        console.print(f"  {item}, bare: {', '.join(each)}")
        changed: dict[str, list[str]] = {}
        for line in parts:
            if line.change:
                text = f"{line.tag} {_number(line.change)} of {line.num_examples}"
                changed.setdefault(f"{line.program_bits} bits, {line.candidate}", []).append(text)
        for program, texts in changed.items():
            console.print(f"  {item}, {program}: {', '.join(texts)}")


def _cell(line: Line | None) -> Text:
    if line is None or line.error is not None:
        return Text("failed")
    style, sign = _SHOWN[line.verdict]
    if line.change == line.lower == line.upper == 0:
        # The value changed in no example.
        return Text("0")
    interval = "" if line.lower is None else f" ({_number(line.lower)} {_number(line.upper)})"
    return Text(f"{_number(line.change)}{interval}{sign}", style=style)


def _number(value: float | None, *, signed: bool = True) -> str:
    if value is None:
        return "?"
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _print_trades(console: Console, lines: Sequence[Line]) -> None:
    for about, helps, harms in trades(lines):
        console.print(
            f"{about.candidate} ({about.model}, {about.program_bits} bits) helps "
            f"{_changes(helps) or 'nothing here'} and harms {_changes(harms)}"
        )


def _changes(lines: Sequence[Line]) -> str:
    return ", ".join(f"{line.item} {_number(line.change)}" for line in lines)
