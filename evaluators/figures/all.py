"""All pictures of a report, as files for print."""

import re
from collections.abc import Iterator

from kilobit.evaluators.figures.canvas import Format
from kilobit.evaluators.figures.plot_course import draw_composition, draw_course, draw_rungs
from kilobit.evaluators.figures.plot_front import AXES, draw_front
from kilobit.evaluators.figures.plot_scorecard import draw_scorecard
from kilobit.evaluators.report.contents import Published, Report, ShownTask
from kilobit.search.front.points import FrontPoint

_FORMATS: tuple[Format, ...] = ("pdf", "png")


def figures(report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each picture; empty parts of the report have none."""
    styles = {model.label: model.style for model in report.models}
    for kind in _FORMATS:
        for number, task in enumerate(report.tasks):
            name = "front" if len(report.tasks) == 1 else f"front-{number + 1}-{_plain(task.name)}"
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


def _plain(name: str) -> str:
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
