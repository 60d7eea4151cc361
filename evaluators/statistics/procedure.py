"""Bounds for a whole procedure: what a search of this budget gives on new data.

In: several runs of one search, each with its own seed and split, and for each the scores that the
programs it chose at some targets have on examples that it never saw. Out: the mean over runs at
each target, with bounds for its expectation over seeds and data that hold for all targets at once.
A bound for a program says nothing about the next search, which finds another program.

A run's score is the true score of its program plus the noise of its held-out examples. The variance
of the mean over R runs is S²/R + c. S² is the variance between runs, which contains whatever is
independent between them: seeds, the choice of candidates, examples of their own. Runs that share
held-out examples (a published test set, another division of the same file) share their noise too,
which no comparison of runs shows: c is its covariance, averaged over pairs of runs and estimated
from the shared examples. This is in closed form the variance of a multiplier bootstrap over
examples for repeated splits (as in arXiv 2605.05973), with the choice of each run taken anew
instead of from a fixed list. The two parts are independent, so the squares of their half widths are
added: Student's quantile with R - 1 degrees of freedom for S²/R, and with as many as there are
examples for c. The targets share the level (Bonferroni).

Assumed: the runs differ only in seeds and data, and their scores are close to normal. Where runs
learn from the same examples, part of what other data would change is not seen;
`benchmarks/procedure.py` measures how much this costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilobit.search.task import LEVEL, Bounds

# Two runs have a quantile of 25 at two targets: their bounds say nothing.
FEWEST_RUNS = 3


@dataclass(frozen=True)
class HeldOut:
    """The scores of a run's programs on examples that it never saw.

    Attributes:
        units: the name of each example, or of its cluster; equal in all runs that have it.
        scores: shape [examples, targets].
    """

    units: Sequence[str]
    scores: NDArray[np.float64]


def procedure_bounds(runs: Sequence[HeldOut], level: float = LEVEL) -> list[Bounds]:
    """Return the mean over runs with bounds of its expectation, for each target.

    Args:
        runs: at least `FEWEST_RUNS`, with the same targets.
        level: probability that the bounds of all targets hold.

    Raises:
        ValueError: if there are too few runs, or one has no examples.
    """
    count = len(runs)
    if count < FEWEST_RUNS:
        raise ValueError(f"{count} runs: a bound for a procedure needs {FEWEST_RUNS} or more")
    if any(not len(run.units) for run in runs):
        raise ValueError("no scores: a mean needs at least one example")
    means = np.array([run.scores.mean(axis=0) for run in runs])
    between = means.var(axis=0, ddof=1) / count
    units = {unit: i for i, unit in enumerate(dict.fromkeys(u for run in runs for u in run.units))}
    total = np.zeros((len(units), means.shape[1]))
    own = np.zeros(means.shape[1])
    for run, mean in zip(runs, means, strict=True):
        noise = np.zeros_like(total)
        np.add.at(noise, np.array([units[u] for u in run.units]), run.scores - mean)
        noise /= len(run.units)
        total += noise
        own += (noise**2).sum(axis=0)
    shared = ((total**2).sum(axis=0) - own) / (count * (count - 1))
    # The last term is one example more or less, where nothing varies.
    shared = np.maximum(0.0, shared) + 1 / len(units) ** 2
    few, many = (quantile(number, means.shape[1], level) for number in (count, len(units)))
    half = np.sqrt(few**2 * between + many**2 * shared)
    return [
        Bounds(float(score), float(max(0.0, score - h)), float(min(1.0, score + h)))
        for score, h in zip(means.mean(axis=0), half, strict=True)
    ]


def quantile(count: int, targets: int, level: float = LEVEL) -> float:
    """Return the standard errors from a mean of `count` values to its bound at each target."""
    from scipy.special import stdtrit

    return float(stdtrit(max(2, count) - 1, 1 - (1 - level) / (2 * targets)))
