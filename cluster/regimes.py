"""Comparison of several base models, as the command `front` prints it."""

from collections.abc import Sequence

from rich.console import Console

from cluster.terminal import wide_table
from search.front import FrontPoint
from search.regimes import Collapse, Lengths, collapses, rows_of


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
