"""Two-sided 95 % intervals for scores in [0, 1].

They describe the noise that a finite number of examples causes for one program. They do not correct
for selecting the best of many programs; that needs data the search never saw.

Paired comparison: the effect of a program on the same examples with and without it.

Each change has a Student interval for the mean of its paired differences, not corrected for the
number of comparisons. Its significance is tested separately: by a sign-flip test (Fisher 1935),
which assumes no distribution, with Holm's correction (1979) over all comparisons of one scorecard,
so that the probability of any wrong verdict among them is at most the level. Comparisons with so
few differences that no pattern of signs could be significant are excluded from the correction
(Tarone 1990).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilobit.search.task import Interval

_LEVEL = 0.95
_NUM_RESAMPLES = 400
# Probability of a wrong verdict on changes.
LEVEL = 0.05
_NUM_FLIPS = 20_000
_FLIPS_AT_ONCE = 2_000


def mean_interval(scores: Sequence[float]) -> Interval:
    """Return the mean of scores in [0, 1] with Wilson's interval (Wilson 1927).

    For scores between 0 and 1 it is conservative: among variables in [0, 1] with the same mean, the
    0/1 variable has the largest variance.

    Raises:
        ValueError: if there are no scores or one of them is outside [0, 1] or not a number.
    """
    if not scores:
        raise ValueError("no scores: a mean needs at least one example")
    bad = next((score for score in scores if not 0.0 <= score <= 1.0), None)
    if bad is not None:
        raise ValueError(f"score {bad} is outside [0, 1]")
    n = len(scores)
    mean = math.fsum(scores) / n
    if n < 2:
        return Interval(mean, None, None)
    z = NormalDist().inv_cdf(0.5 + _LEVEL / 2)
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # Rounding may push a bound past the mean at 0 and 1, where Wilson's bound is the mean itself.
    return Interval(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)))


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


@dataclass(frozen=True)
class Change:
    """A mean with a program, without it, and the difference.

    Attributes:
        num_examples: number of pairs.
        base: mean without the program.
        value: mean with it.
        change: `value - base`.
        lower: lower end of the 95 % interval of the change; None for a single example.
        upper: upper end of it.
        p: two-sided p-value of the sign-flip test; None if too few examples differ for any pattern
            of signs to be significant.
    """

    num_examples: int
    base: float
    value: float
    change: float
    lower: float | None
    upper: float | None
    p: float | None


def paired_change(values: Sequence[float], base: Sequence[float]) -> Change:
    """Return the change from `base` to `values`, for the same examples in the same order.

    Raises:
        ValueError: if they are empty, differ in number, or contain a value that is not finite.
    """
    with_, without = np.asarray(values, dtype=float), np.asarray(base, dtype=float)
    if with_.shape != without.shape or not with_.size:
        raise ValueError(f"{with_.size} values can't be paired with {without.size}")
    if not (np.isfinite(with_).all() and np.isfinite(without).all()):
        raise ValueError("values must be finite")
    differences = with_ - without
    n, mean = len(differences), math.fsum(differences) / len(differences)
    lower = upper = None
    if n > 1:
        from scipy.special import stdtrit

        error = float(differences.std(ddof=1)) / math.sqrt(n)
        half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * error
        lower, upper = mean - half, mean + half
    p = _sign_flip(differences[differences != 0])
    return Change(n, float(without.mean()), float(with_.mean()), mean, lower, upper, p)


def _sign_flip(differences: NDArray[np.float64]) -> float | None:
    """Return the share of random sign patterns with a mean at least as far from 0."""
    # Equal signs are the most extreme pattern: 2 of 2^n patterns.
    if 2.0 ** (1 - differences.size) > LEVEL:
        return None
    # Count sums as equal that differ only by rounding.
    least = abs(differences.sum()) * (1 - 1e-9)
    # Fix the seed so that the same differences always get the same verdict.
    rng = np.random.default_rng(differences.size)
    as_far = 0
    for _ in range(_NUM_FLIPS // _FLIPS_AT_ONCE):
        signs = rng.choice((-1.0, 1.0), size=(_FLIPS_AT_ONCE, differences.size))
        as_far += int((np.abs(signs @ differences) >= least).sum())
    return (as_far + 1) / (_NUM_FLIPS + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons, in the given order (Holm 1979)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, position in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[position]))
        adjusted[position] = largest
    return adjusted
