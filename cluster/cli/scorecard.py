"""The command `scorecard`: side effects of a front's programs on a battery of other inputs.

The programs are applied to their resident base model and removed again, one after the other, in
this process or by members of a crew on a cluster. Items with missing data are named; nothing is
downloaded. The results are written to RUN/scorecard.parquet, whole or not at all, one line per item
and part (`kilobit.evaluators.battery.battery.SideEffect`).

The terminal shows programs in rows, items in columns, and harm in red.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.console import Console
from rich.text import Text

from kilobit.cluster.console import Terminal, followed, stderr_console, wide_table
from kilobit.cluster.fleet.crew import crew_of, ranks_on
from kilobit.cluster.requests import ScorecardRequest, wrong_input
from kilobit.cluster.runs.folder import open_run
from kilobit.cluster.runs.fronts import RunFront
from kilobit.evaluators.battery.battery import (
    SideEffect,
    compare,
    failed_line,
    judge_lines,
    trades,
)
from kilobit.evaluators.battery.config import load_battery
from kilobit.evaluators.ledger.parts import as_parquet
from kilobit.evaluators.ledger.storage import write_whole
from kilobit.evaluators.statistics.paired import LEVEL
from kilobit.search.candidate import MODEL_FREE
from kilobit.search.front.points import FrontPoint
from kilobit.search.settings import InputError

if TYPE_CHECKING:
    from kilobit.cluster.fleet.measurer import Measured

FILE = "scorecard.parquet"
DONE, FAILED = 0, 1
_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("task", pa.string()),
        ("model", pa.string()),
        ("regime", pa.string()),
        ("candidate", pa.string()),
        ("family", pa.string()),
        ("program", pa.string()),
        ("program_bits", pa.int64()),
        ("payload_bits", pa.int64()),
        ("net_bits", pa.int64()),
        ("own_score", pa.float64()),
        ("verified", pa.bool_()),
        ("certified", pa.bool_()),
        ("item", pa.string()),
        ("tag", pa.string()),
        ("better", pa.string()),
        ("num_examples", pa.int64()),
        ("base", pa.float64()),
        ("value", pa.float64()),
        ("change", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("p", pa.float64()),
        ("verdict", pa.string()),
        ("error", pa.string()),
    ]
)
# Signs beside colours, for terminals and readers without colours.
_SHOWN = {"harms": ("red", " ▼"), "helps": ("green", " ▲"), None: ("", "")}


def scorecard(request: ScorecardRequest) -> int:
    """Measure the front of a run on a battery and print the side effects of its programs."""
    began = time.monotonic()
    battery, battery_folder = load_battery(request.battery)
    run = open_run(request.run)
    with wrong_input():
        groups = [points for points in RunFront(run).by_model.values() if points]
    if not groups:
        raise InputError(
            f"{request.run}: no candidate has completed the last rung: there is no front"
        )
    # A program that runs without the model changes nothing of it.
    groups = [[one for one in group if one.family not in MODEL_FREE] for group in groups]
    groups = [group for group in groups if group]
    if not groups:
        raise InputError(
            f"{request.run}: every program on its front runs without the model: none has side "
            "effects to measure"
        )
    from kilobit.cluster.fleet.measurer import Measurer, SpreadMeasurer

    console = Terminal()
    console.quiet = request.json
    # Standard output is for the lines of JSON only.
    said = stderr_console() if request.json else console
    # Through a cluster's driver both are one.
    said.quiet = request.json and not said.is_terminal
    points = [point for group in groups for point in group]
    # The bare model is measured first.
    subjects = [(group[0].model, one) for group in groups for one in (None, *group)]
    split = any(own.shards.are_split for own in run.sweep.workers_by_model.values())
    spread = request.address is not None and split
    measurer = partial(SpreadMeasurer, ranks_on(run.sweep)) if spread else Measurer
    make = partial(measurer, run.path, points, battery, battery_folder)
    lines, missing, bare = list[SideEffect](), dict[str, str](), list["Measured"]()
    with crew_of(
        make, run.sweep, len(subjects), request.address, lambda: 1, as_ranks=spread
    ) as crew:
        results = crew.each(lambda one: crew.call("rows", *one), subjects)
        doing = f"measuring {len(points)} programs and what they change"
        for (_, point), (measured, lacking) in followed(results, doing, len(subjects), said):
            missing |= lacking
            if point is None:
                bare = measured
            else:
                lines += side_effects(point, measured, bare)
    for item, why in missing.items():
        lines += [failed_line(point, item, why) for point in points]
    lines = judge_lines(lines)
    write_whole(run.path / FILE, encoded(lines))
    if request.json:
        for line in lines:
            print(json.dumps(line.as_json()))
    else:
        print_card(console, lines, missing)
        seconds = time.monotonic() - began
        console.print(f"\n{seconds:.0f} s in all; written to {run.path / FILE}")
    may_lack = {item.task for item in battery.harness if item.optional} & missing.keys()
    return FAILED if any(line.error and line.item not in may_lack for line in lines) else DONE


def encoded(lines: Sequence[SideEffect]) -> bytes:
    """Return the bytes of scorecard.parquet."""
    return as_parquet(pa.Table.from_pylist([line.as_json() for line in lines], schema=_SCHEMA))


def side_effects(
    point: FrontPoint, measured: Sequence["Measured"], bare: Sequence["Measured"]
) -> list[SideEffect]:
    """Return the lines of a program, from what was measured with it and without any."""
    lines = list[SideEffect]()
    for with_it, without in zip(measured, bare, strict=True):
        if isinstance(without.found, str):
            lines.append(failed_line(point, without.item, f"bare model: {without.found}"))
        elif isinstance(with_it.found, str):
            lines.append(failed_line(point, without.item, with_it.found))
        else:
            lines += compare(point, without.better, with_it.found, without.found)
    return lines


def print_card(console: Console, lines: Sequence[SideEffect], missing: Mapping[str, str]) -> None:
    """Print a table for each base model, the unavailable items, and each program's trade-offs.

    Args:
        console: the console to print to.
        lines: measured changes, with verdicts.
        missing: items that are not available on this machine, with the reason.
    """
    by_model: dict[tuple[str, str], list[SideEffect]] = {}
    for line in lines:
        by_model.setdefault((line.point.task, line.point.model), []).append(line)
    for own in by_model.values():
        _print_model(console, own)
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
            console.print(f"failed: {line.point.candidate} on {line.item}: {line.error}")
    _print_trades(console, whole)


def _print_model(console: Console, lines: Sequence[SideEffect]) -> None:
    found = [line for line in lines if line.error is None]
    items = list(dict.fromkeys(line.item for line in found if line.tag is None))
    by_program: dict[str, dict[tuple[str, str | None], SideEffect]] = {}
    for line in lines:
        by_program.setdefault(line.point.candidate, {})[line.item, line.tag] = line
    first = lines[0].point
    bases = {line.item: line for line in found if line.tag is None}
    rows: list[list[str | Text]] = [
        ["bare", "", "", "", *(_number(bases[item].base, signed=False) for item in items)]
    ]
    for cells in by_program.values():
        about = next(iter(cells.values())).point
        certified = {None: "", True: "yes", False: "no"}[about.certified]
        net = "?" if about.net_bits is None else str(about.net_bits)
        own = [str(about.program_bits), net, f"{about.score:.3f}", certified]
        rows.append([*own, *(_cell(cells.get((item, None))) for item in items)])
    title = f"{first.task}, {first.model}: change against the bare base model"
    console.print(wide_table(console, ("bits", "net", "score", "certified", *items), rows, title))
    _print_parts(console, [line for line in found if line.tag is not None])


def _print_parts(console: Console, lines: Sequence[SideEffect]) -> None:
    """Print the bare model's value in each part of an item, and the programs that change it."""
    by_item: dict[str, list[SideEffect]] = {}
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
                program = f"{line.point.program_bits} bits, {line.point.candidate}"
                changed.setdefault(program, []).append(text)
        for program, texts in changed.items():
            console.print(f"  {item}, {program}: {', '.join(texts)}")


def _cell(line: SideEffect | None) -> Text:
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


def _print_trades(console: Console, lines: Sequence[SideEffect]) -> None:
    for line, helps, harms in trades(lines):
        about = line.point
        console.print(
            f"{about.candidate} ({about.model}, {about.program_bits} bits) helps "
            f"{_changes(helps) or 'nothing here'} and harms {_changes(harms)}"
        )


def _changes(lines: Sequence[SideEffect]) -> str:
    return ", ".join(f"{line.item} {_number(line.change)}" for line in lines)
