"""Two-sided 95 % intervals for scores in [0, 1].

They describe the noise that a finite number of examples causes for one program. They do not correct
for selecting the best of many programs; that needs data the search never saw. Examples of one
cluster, such as the questions on one passage, are not independent; the clusters are.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilobit.search.task import Interval, share

_LEVEL = 0.95
_NUM_RESAMPLES = 400


def in_clusters(rows: NDArray[Any], clusters: Sequence[str] | None) -> NDArray[Any]:
    """Return the sums of the rows of each cluster; without clusters, the rows themselves.

    The order of the clusters depends on the hashes of their names alone: neither on the scores nor
    on the sizes.

    Args:
        rows: shape [..., num_examples, k].
        clusters: the name of each example's cluster.
    """
    if clusters is None:
        return rows
    order = {c: i for i, c in enumerate(sorted(set(clusters), key=lambda c: (share(c), c)))}
    # Each cluster's rows one after another, from `starts` on.
    places = np.array([order[cluster] for cluster in clusters])
    starts = np.searchsorted(np.sort(places), np.arange(len(order)))
    return np.add.reduceat(rows[..., np.argsort(places, kind="stable"), :], starts, axis=-2)


def mean_interval(scores: Sequence[float], clusters: Sequence[str] | None = None) -> Interval:
    """Return the mean of scores in [0, 1] with Wilson's interval (Wilson 1927).

    For scores between 0 and 1 it is conservative: among variables in [0, 1] with the same mean, the
    0/1 variable has the largest variance. With clusters it is that of the effective number of
    examples (Korn and Graubard 1998), which the spread between clusters determines.

    Args:
        scores: one an example.
        clusters: the name of each example's cluster, if some share one.

    Raises:
        ValueError: if there are no scores or one of them is outside [0, 1] or not a number.
    """
    if not scores:
        raise ValueError("no scores: a mean needs at least one example")
    bad = next((score for score in scores if not 0.0 <= score <= 1.0), None)
    if bad is not None:
        raise ValueError(f"score {bad} is outside [0, 1]")
    n: float = len(scores)
    mean = math.fsum(scores) / n
    if n < 2 or (clusters is not None and len(set(clusters)) < 2):
        return Interval(mean, None, None)
    if clusters is not None:
        n = _effective(np.asarray(scores), clusters)
    z = NormalDist().inv_cdf(0.5 + _LEVEL / 2)
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # Rounding may push a bound past the mean at 0 and 1, where Wilson's bound is the mean itself.
    return Interval(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)))


def _effective(scores: NDArray[np.float64], clusters: Sequence[str]) -> float:
    """Return the number of independent examples that tell as much, for a normal quantile."""
    from scipy.special import stdtrit

    mean, total = scores.mean(), len(scores)
    off, sizes = in_clusters(np.stack([scores - mean, np.ones(total)], axis=1), clusters).T
    count = len(sizes)
    variance = count / (count - 1) * (off**2).sum() / total**2
    # Without any spread the examples of a cluster may be the same.
    found = mean * (1 - mean) / variance if variance > 0 else total**2 / (sizes**2).sum()
    tail = 0.5 + _LEVEL / 2
    ratio = NormalDist().inv_cdf(tail) / float(stdtrit(count - 1, tail))
    return float(min(found, total)) * ratio**2


def bootstrap_interval(
    rows: NDArray[np.int64], score: Callable[[NDArray[Any]], NDArray[np.float64]]
) -> Interval:
    """Return `score` of the column sums of `rows` with a percentile bootstrap over rows.

    Args:
        rows: integer statistics, one row an example, shape [num_examples, num_statistics].
        score: maps summed statistics, shape [..., num_statistics], to scores in [0, 1].

    Raises:
        ValueError: if there are no rows.
    """
    if not len(rows):
        raise ValueError("no rows: a score needs at least one example")
    value = float(score(rows.sum(axis=0)))
    n = len(rows)
    if n < 2:
        return Interval(value, None, None)
    # Fix the seed so that the same rows always get the same interval.
    rng = np.random.default_rng(n)
    # Use floats: they are exact here and multiply much faster than integers.
    weights = rng.multinomial(n, np.full(n, 1 / n), size=_NUM_RESAMPLES).astype(float)
    lower, upper = np.quantile(
        score(weights @ rows.astype(float)), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    )
    return Interval(value, min(value, float(lower)), max(value, float(upper)))
