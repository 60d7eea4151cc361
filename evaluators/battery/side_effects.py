"""Side effects of a program: the lines of a scorecard from rows with and without the program."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from kilobit.evaluators.battery.battery import Better, Row
from kilobit.evaluators.statistics.paired import LEVEL, holm, paired_change
from kilobit.search.front.points import FrontPoint

Verdict = Literal["helps", "harms"]
_OF_A_POINT = ("run", "task", "model", "regime", "candidate", "family", "program", "program_bits",
               "payload_bits", "net_bits", "own_score", "verified", "certified")  # fmt: skip


@dataclass(frozen=True)
class SideEffect:
    """One item of one program, or a part of an item: a line of scorecard.parquet.

    Attributes:
        point: the program, with its score on its own task.
        item: name of the item.
        tag: `name=value` of the part, None for the whole item.
        better: whether higher or lower values are better.
        base: mean with the bare base model; `value` is that with the program, `change` the
            difference.
        lower: lower end of the 95 % interval of the change, for this comparison alone.
        p: p-value of the change, adjusted for all whole items of all programs; None for parts, and
            where too few examples differ for a verdict.
        verdict: direction of a change that exceeds noise, None if it does not.
        error: reason why there is no value.
    """

    point: FrontPoint
    item: str
    tag: str | None = None
    better: Better = "higher"
    num_examples: int | None = None
    base: float | None = None
    value: float | None = None
    change: float | None = None
    lower: float | None = None
    upper: float | None = None
    p: float | None = None
    verdict: Verdict | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this line, which calls the score of the point `own_score`."""
        own = asdict(self)
        point = own.pop("point")
        point["own_score"] = point["score"]
        return {name: point[name] for name in _OF_A_POINT} | own


def failed_line(point: FrontPoint, item: str, error: str) -> SideEffect:
    """Return the line of an item that failed."""
    return SideEffect(point, item, error=error)


def compare(
    point: FrontPoint, better: Better, rows: Sequence[Row], base: Sequence[Row]
) -> list[SideEffect]:
    """Return the lines of one evaluator, whole items before their parts.

    Args:
        point: the program.
        better: whether higher or lower values are better.
        rows: rows with the program.
        base: rows with the bare base model, on the same examples.

    Raises:
        ValueError: if the examples are not the same.
    """
    lines = []
    for item, tag, part, bare in _parts(rows, base):
        found = paired_change([row.value for row in part], [row.value for row in bare])
        # Parts are described, not tested.
        own: dict[str, Any] = {**vars(found), "p": None if tag else found.p}
        lines.append(SideEffect(point, item, tag=tag, better=better, **own))
    return lines


def _parts(
    rows: Sequence[Row], base: Sequence[Row]
) -> list[tuple[str, str | None, list[Row], list[Row]]]:
    bare: Mapping[tuple[str, str], Row] = {(row.item, row.example): row for row in base}
    asked = [(row.item, row.example) for row in rows]
    if len(set(asked)) != len(asked) or set(asked) != set(bare):
        raise ValueError("an evaluator gave the program and the bare model different examples")
    parts: dict[tuple[str, str | None], list[Row]] = {}
    rows = [r for r in rows if not math.isnan(r.value + bare[r.item, r.example].value)]
    for row in rows:
        parts.setdefault((row.item, None), []).append(row)
    for row in rows:
        for name, value in row.tags.items():
            parts.setdefault((row.item, f"{name}={value}"), []).append(row)
    return [
        (item, tag, part, [bare[row.item, row.example] for row in part])
        for (item, tag), part in parts.items()
    ]


def judge_lines(lines: Sequence[SideEffect]) -> list[SideEffect]:
    """Return the lines with verdicts, their p-values adjusted for all lines together."""
    tested = [line.p for line in lines if line.p is not None]
    adjusted = iter(holm(tested))
    return [line if line.p is None else _judged(line, next(adjusted)) for line in lines]


def _judged(line: SideEffect, p: float) -> SideEffect:
    verdict: Verdict | None = None
    if p <= LEVEL and line.change:
        verdict = "helps" if (line.change > 0) == (line.better == "higher") else "harms"
    return replace(line, p=p, verdict=verdict)


def trades(
    lines: Sequence[SideEffect],
) -> list[tuple[SideEffect, list[SideEffect], list[SideEffect]]]:
    """Return the programs that harm an item: one line each, with the lines it helps and harms."""
    by_program: dict[tuple[str, str], list[SideEffect]] = {}
    for line in lines:
        if line.verdict is not None:
            by_program.setdefault((line.point.model, line.point.candidate), []).append(line)
    found = []
    for each in by_program.values():
        harms = [line for line in each if line.verdict == "harms"]
        if harms:
            found.append((each[0], [line for line in each if line.verdict == "helps"], harms))
    return found
