"""All pictures of a report, as files for print; that of its scorecard is drawn here."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from kilobit.evaluators.figures.canvas import Format, encoded, new_figure, plain
from kilobit.evaluators.figures.plot_course import draw_composition, draw_course, draw_rungs
from kilobit.evaluators.figures.plot_front import AXES, draw_front
from kilobit.evaluators.report.contents import Published, Report, ShownTask
from kilobit.search.front.points import FrontPoint

_FORMATS: tuple[Format, ...] = ("pdf", "png")
# Orange is worse, blue is better.
_WORSE_TO_BETTER = LinearSegmentedColormap.from_list("kilobit", ["#E66E00", "#FFFFFF", "#0072B2"])
_MARKS = {"helps": " ▲", "harms": " ▼"}
# Changes below this are pale, even where nothing in the column changed more.
_LEAST_SCALE = 0.05


def figures(report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each picture; empty parts of the report have none."""
    styles = {model.label: model.style for model in report.models}
    for kind in _FORMATS:
        for number, task in enumerate(report.tasks):
            name = "front" if len(report.tasks) == 1 else f"front-{number + 1}-{_short(task.name)}"
            yield f"{name}.{kind}", _front(report, task, kind)
        if report.courses:
            yield f"course.{kind}", draw_course(report.courses, styles, kind)
        if report.rungs:
            yield f"rungs.{kind}", draw_rungs(report.rungs, styles, kind)
        on_front = [program for program in report.programs if program.sections is not None]
        if on_front:
            yield f"composition.{kind}", draw_composition(on_front, kind)
        if report.scorecard:
            yield f"scorecard.{kind}", draw_scorecard(report.scorecard, kind)


def _short(name: str) -> str:
    """Return a name that every file system accepts."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]


def _front(report: Report, task: ShownTask, kind: Format) -> bytes:
    own = [program for program in report.programs if program.point.task == task.name]
    front: dict[str, list[FrontPoint]] = {label: [] for label in task.models}
    others: dict[str, list[FrontPoint]] = {label: [] for label in task.models}
    for program in own:
        if program.point.model in front and program.point.length == report.length:
            (front if program.on_front else others)[program.point.model].append(program.point)
    for points in front.values():
        points.sort(key=lambda point: point.bits)
    published: dict[str, list[Published]] = {}
    for one in report.overlay:
        if one.task in (None, task.name):
            published.setdefault(one.label, []).append(one)
    return draw_front(
        front,
        task.targets,
        f"{report.title}: {task.name}" if len(report.tasks) > 1 else report.title,
        AXES[report.length],
        dotted={program.point for program in own if program.certified_at is not None},
        others=others,
        published=published,
        kind=kind,
    )


def draw_scorecard(lines: Sequence[Mapping[str, Any]], kind: Format) -> bytes:
    """Return the picture of the changes of whole items against the bare base models.

    Args:
        lines: rows of scorecard.parquet.
        kind: format of the bytes.
    """
    whole = [line for line in lines if line["tag"] is None]
    whole = [line for line in whole if line["change"] is not None or line["error"]]
    # Leave out items without a number for any program: their columns would be empty.
    items = list(dict.fromkeys(line["item"] for line in whole if line["change"] is not None))
    programs = list(dict.fromkeys(_program(line) for line in whole))
    cells = {(_program(line), line["item"]): line for line in whole}
    better = np.zeros((len(programs), len(items)))
    for row, program in enumerate(programs):
        for column, item in enumerate(items):
            better[row, column] = _better(cells.get((program, item)))
    scale = np.maximum(np.abs(better).max(axis=0, initial=0), _LEAST_SCALE)
    figure = new_figure(2.6 + 1.15 * len(items), 1.2 + 0.28 * len(programs))
    axes = figure.add_subplot()
    axes.imshow(better / scale, cmap=_WORSE_TO_BETTER, vmin=-1.6, vmax=1.6, aspect="auto")
    for row, program in enumerate(programs):
        for column, item in enumerate(items):
            text = _text(cells.get((program, item)))
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(items)), list(map(plain, items)), rotation=20, ha="left", fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(programs)), [_name(cells, p, items) for p in programs], fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("change against the bare base model; ▲ helps, ▼ harms beyond noise", fontsize=8)
    return encoded(figure, kind)


def _program(line: Mapping[str, Any]) -> tuple[str, str, str]:
    return line["run"], line["model"], line["candidate"]


def _better(line: Mapping[str, Any] | None) -> float:
    if line is None or line["change"] is None:
        return 0.0
    return float(-line["change"] if line["better"] == "lower" else line["change"])


def _text(line: Mapping[str, Any] | None) -> str:
    if line is None or line["change"] is None:
        return "failed" if line is not None and line["error"] else "?"
    if line["change"] == 0:
        return "0"
    return f"{line['change']:+.2f}{_MARKS.get(line['verdict'], '')}"


def _name(
    cells: Mapping[tuple[tuple[str, str, str], str], Mapping[str, Any]],
    program: tuple[str, str, str],
    items: Sequence[str],
) -> str:
    line = next(cells[program, item] for item in items if (program, item) in cells)
    return f"{plain(line['model'])}, {line['program_bits']:,} bits"
