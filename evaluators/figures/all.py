"""All pictures of a report, as files for print."""

import re
from collections.abc import Iterator
from dataclasses import asdict

from kilobit.evaluators.figures.canvas import Format
from kilobit.evaluators.figures.plot_course import draw_composition, draw_course, draw_rungs
from kilobit.evaluators.figures.plot_front import draw_front
from kilobit.evaluators.figures.plot_scorecard import draw_scorecard
from kilobit.evaluators.report.contents import Report, ShownTask

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
    own = [program for program in report.programs if program.task == task.name]
    front = {
        label: sorted(
            (asdict(p) for p in own if p.model == label and p.on_front), key=lambda p: p["bits"]
        )
        for label in task.models
    }
    others = {
        label: [asdict(p) for p in own if p.model == label and not p.on_front]
        for label in task.models
    }
    published: dict[str, list[dict[str, object]]] = {}
    for point in report.overlay:
        if point.task in (None, task.name):
            published.setdefault(point.label, []).append(asdict(point))
    return draw_front(
        front,
        task.targets,
        f"{report.title}: {task.name}" if len(report.tasks) > 1 else report.title,
        f"length of the {report.length}",
        others=others,
        published=published,
        kind=kind,
    )
