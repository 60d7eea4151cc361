"""Runs of one search over several seeds: whether they are, and what each of them would deploy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.runs.fronts import RunFront
from kilobit.cluster.runs.report_parts import steps_of
from kilobit.evaluators.metrics.metrics import MeanMetric
from kilobit.evaluators.statistics.procedure import HeldOut
from kilobit.search.records import PredictionRecord
from kilobit.search.settings import InputError
from kilobit.search.task import Task

# Settings in which the runs of one procedure may differ.
_FREE = {"name", "seed", "out", "cache", "certify", "workers", "slurm", "kubernetes", "trackers"}
_FREE_IN_TASK = {"seed", "data", "files", "fractions", "splits", "train", "search", "sealed"}


def refuse_other_searches(runs: Sequence[RunFolder]) -> None:
    """Refuse runs that differ in more than seeds, splits and where they ran.

    Raises:
        InputError: naming two runs and the settings that differ.
    """
    first, *others = ((run, _searched(run)) for run in runs)
    for run, settings in others:
        changed = [name for name, value in first[1].items() if settings[name] != value]
        if changed:
            raise InputError(
                f"--procedure: {first[0].path} and {run.path} are not runs of one search: "
                f"{', '.join(changed)} differs"
            )


def _searched(run: RunFolder) -> dict[str, Any]:
    settings = run.sweep.model_dump(mode="json", exclude=_FREE)
    task = {k: v for k, v in settings["task"].items() if k not in _FREE_IN_TASK}
    return settings | {"task": task}


@dataclass(frozen=True)
class Deployed:
    """The programs that a run chooses at some targets, on its sealed split.

    Attributes:
        held_out: their scores there; 0 for a program that failed.
        bits: their lengths; empty if the run has no program.
        num_reached: at each target, 1 if the search split says that it is reached.
    """

    held_out: HeldOut
    bits: Sequence[int]
    num_reached: Sequence[int]


def deployed(
    front: RunFront, task: Task, model: tuple[str, str], targets: Sequence[float]
) -> Deployed:
    """Return the shortest program that reaches each target, or else the best one."""
    examples = task.splits.sealed
    columns: list[list[float]] = []
    points, steps = front.by_model.get(model, []), steps_of(front.run.ledger)
    reached = [[point for point in points if point.score >= target] for target in targets]
    chosen = [(each or points[-1:])[0] for each in reached if points]
    for point in chosen:
        opening = "" if point.certificate is None else point.certificate.opening
        part = f"{opening}-{point.candidate}"
        rows = front.run.ledger.read_part(PredictionRecord, part)
        if rows is None:
            columns.append([0.0] * len(examples))
        elif isinstance(task.metric, MeanMetric):
            # Without a judge's verdict an output counts as wrong, so that the bound holds.
            scores = {row.example: row.score or 0.0 for row in rows}
            columns.append([scores[example.id] for example in examples])
        else:
            own = steps.get(point.candidate, ())
            outputs = {row.example: task.cut(row.output, own) for row in rows}
            said = [outputs[example.id] for example in examples]
            found = task.metric.contributions(said, examples)
            columns.append([score or 0.0 for score in found])
    table = np.array(columns or np.zeros((len(targets), len(examples)))).T
    held_out = HeldOut([example.unit for example in examples], table)
    return Deployed(held_out, [point.bits for point in chosen], [min(1, len(e)) for e in reached])
