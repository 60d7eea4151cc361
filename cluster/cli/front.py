"""The command `front`: fronts of runs and data sets, base models compared, imported points."""

import json
from collections.abc import Sequence

from rich.console import Console

from kilobit.cluster.console import Terminal, wide_table
from kilobit.cluster.requests import FrontRequest, wrong_input
from kilobit.cluster.runs.fronts import Front, points_from, print_front, range_text
from kilobit.cluster.runs.result_sources import Imported, apart_lines, open_sources
from kilobit.search.front.complexity import Collapse, Lengths, collapses, rows_of
from kilobit.search.front.points import FrontPoint, ImportedPoint, imported_fronts, imported_points
from kilobit.search.programs.program import Length


def imported_points_of(
    sources: Sequence[Imported], length: Length | None
) -> tuple[list[ImportedPoint], int]:
    """Return the imported points of these sources, and the number that lack the length.

    Args:
        sources: the imported data.
        length: the length to compare by; None for the one that most of the points have.

    Raises:
        ValueError: naming the file, if one is damaged.
    """
    rows = [(source.name, row) for source in sources for row in source.points().to_pylist()]
    if length is None:
        known = {kind: sum(row[f"{kind}_bits"] is not None for _, row in rows)
                 for kind in ("program", "payload")}  # fmt: skip
        length = "program" if known["program"] >= known["payload"] else "payload"
    points = [point for name, row in rows for point in imported_points(name, [row], length)]
    return points, len(rows) - len(points)


def print_imported(
    console: Console, points: Sequence[ImportedPoint], num_without: int, length: Length | None
) -> None:
    """Print the fronts of imported points.

    Args:
        console: where to print.
        points: those that have the length.
        num_without: number of points that lack it.
        length: the length that was asked for, None if none was.
    """
    for (task, model), front in imported_fronts(points).items():
        columns = {
            "program": ["" if p.program_bits is None else str(p.program_bits) for p in front],
            "payload": ["" if p.payload_bits is None else str(p.payload_bits) for p in front],
            "score": [f"{p.score:.3f}" for p in front],
            "interval": [range_text(p.lower, p.upper) for p in front],
            "family": [p.family or "" for p in front],
            "verified": ["imported" for _ in front],
            "candidate": [p.candidate or "" for p in front],
            "from": [p.run for p in front],
        }
        title = (
            f"{task or 'unknown task'}, {model or 'unknown model'}: imported, by "
            f"{front[0].length} bits as published"
        )
        console.print(wide_table(console, columns, zip(*columns.values(), strict=True), title))
    if points:
        console.print("  imported: these files were not run here, and no complexity counts them")
    if num_without:
        shown = length or (points[0].length if points else "program")
        other = "payload" if shown == "program" else "program"
        console.print(f"  {num_without} imported points lack this length; try --length {other}")


def print_regimes(
    console: Console, points: Sequence[FrontPoint], order: Sequence[str], targets: Sequence[float]
) -> None:
    """Print the shortest program of each base model for each score, if a task has several models.

    Args:
        console: where to print.
        points: programs of any tasks and base models.
        order: labels of base models, from the least to the most trained.
        targets: scores to reach.
    """
    for task in dict.fromkeys(point.task for point in points):
        own = [point for point in points if point.task == task]
        models = [label for label in dict.fromkeys(order) if any(p.model == label for p in own)]
        if len(models) > 1:
            _print_task(console, task, own, models, targets)


def _print_task(
    console: Console,
    task: str,
    points: Sequence[FrontPoint],
    models: Sequence[str],
    targets: Sequence[float],
) -> None:
    of_scores = rows_of(points, models, targets)
    rows = [
        [f"≥ {score:g}{' target' if score in targets else ''}", *map(_cell, each)]
        for score, each in of_scores
    ]
    any_certified = any(found.certified is not None for _, each in of_scores for found in each)
    of_these = " (of these certified)" if any_certified else ""
    title = f"{task}: shortest program in {points[0].length} bits{of_these}"
    console.print(wide_table(console, ("score", *models), rows, title))
    any_found = False
    for target in targets:
        for one in collapses(points, models, target):
            any_found = True
            how = "certified" if one.certified else "found, not certified"
            console.print(
                f"  score ≥ {target:g}, {one.before} to {one.after}: {_factor(one)} ({how}); "
                f"{one.after} holds at most {one.information} bits of "
                f"information about this task that {one.before} does not"
            )
    if any_found:
        console.print(
            "  The last number is an upper bound, as certain as the program's score: the first "
            "model with that\n  program does the task. The factor compares the programs found. It "
            "proves nothing about the\n  ratio of complexities, because a shorter program may "
            "exist under either model, and no lower\n  bound is known."
        )


def _factor(one: Collapse) -> str:
    if one.factor < 1:
        return f"{one.after} needs {1 / one.factor:.2f} times as many bits"
    return f"collapse by a factor of {one.factor:.2f}"


def _cell(found: Lengths) -> str:
    if found.found is None and found.certified is None:
        return "not reached"
    certified = "" if found.certified is None else f" ({found.certified})"
    return f"{'?' if found.found is None else found.found}{certified}"


def front(request: FrontRequest) -> int:
    """Print the fronts of one or more runs, and of imported points."""
    sources, others = open_sources(request.runs)
    sweeps = [source.sweep for source in sources]
    length = request.length or next((sweep.length for sweep in sweeps), None)
    with wrong_input():
        found = Front(
            [
                point
                for source in sources
                for point in points_from(source.name, source.read, source.sweep, request.length)
            ]
        )
        imported, num_without = imported_points_of(others, length)
    if request.json:
        ours = [point.as_json() for point in found.on_front]
        theirs = [point.as_json() for each in imported_fronts(imported).values() for point in each]
        for line in ours + theirs:
            print(json.dumps(line))
        return 0
    targets = sorted({target for sweep in sweeps for target in sweep.targets})
    console = Terminal()
    for words in apart_lines(sources):
        console.print(words)
    if sweeps:
        print_front(console, found, targets)
        order = [model.label for sweep in sweeps for model in sweep.base_models]
        print_regimes(console, found.points, order, targets)
    print_imported(console, imported, num_without, length)
    return 0
