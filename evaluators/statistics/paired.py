"""Paired comparison: two programs, or a model with and without one, on the same examples.

Each change has a Student interval for the mean of its paired differences, not corrected for the
number of comparisons. Its significance is tested separately: by a sign-flip test (Fisher 1935),
which assumes no distribution, with Holm's correction (1979) over all comparisons of one scorecard,
so that the probability of any wrong verdict among them is at most the level. Comparisons with so
few differences that no pattern of signs could be significant are excluded from the correction
(Tarone 1990).

Two programs with scores of 0 and 1 are compared by McNemar's exact test (1947), which is the
sign-flip test of such scores, and Tango's score interval (1998). Examples of one cluster change
sign together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kilobit.evaluators.statistics.intervals import in_clusters

LEVEL = 0.05
_NUM_FLIPS = 20_000
_FLIPS_AT_ONCE = 2_000
# With so few differences all patterns of signs are tried.
_MOST_EXACT = 14
_NUM_HALVINGS = 60


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
    """Return the p-value of differences that are not 0, or None if it can't be significant."""
    # Equal signs are the most extreme pattern: 2 of 2^n patterns.
    return None if 2.0 ** (1 - differences.size) > LEVEL else _share_as_far(differences)


def _share_as_far(differences: NDArray[np.float64]) -> float:
    """Return the share of sign patterns with a mean at least as far from 0."""
    n = differences.size
    # Count sums as equal that differ only by rounding.
    least = abs(differences.sum()) - 1e-9 * np.abs(differences).sum()
    if n <= _MOST_EXACT:
        signs = 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1
        return float((np.abs(signs @ differences) >= least).mean())
    # Fix the seed so that the same differences always get the same verdict.
    rng = np.random.default_rng(n)
    as_far = 0
    for _ in range(_NUM_FLIPS // _FLIPS_AT_ONCE):
        signs = rng.choice((-1.0, 1.0), size=(_FLIPS_AT_ONCE, differences.size))
        as_far += int((np.abs(signs @ differences) >= least).sum())
    return (as_far + 1) / (_NUM_FLIPS + 1)


@dataclass(frozen=True)
class Difference:
    """The scores of two programs on the same examples.

    Attributes:
        num_examples: number of pairs.
        num_clusters: number of clusters of examples, None if no two examples share one.
        score_one: score of the first program.
        score_two: score of the second one.
        difference: `score_one - score_two`.
        lower: lower end of its 95 % interval; None if nothing varies, so that it would say nothing.
        upper: upper end of it.
        p: two-sided p-value of no difference.
        test: the test, `McNemar` or `sign flips`.
    """

    num_examples: int
    num_clusters: int | None
    score_one: float
    score_two: float
    difference: float
    lower: float | None
    upper: float | None
    p: float
    test: str


def paired_difference(
    one: Sequence[float], two: Sequence[float], clusters: Sequence[str] | None = None
) -> Difference:
    """Return the difference of two programs' scores for the same examples in the same order.

    Args:
        one: scores of the first program.
        two: scores of the second one.
        clusters: the name of each example's cluster, if some share one.

    Raises:
        ValueError: if they are empty, differ in number, or contain a value that is not finite.
    """
    pair = np.array([one, two], dtype=float) if len(one) == len(two) else np.empty((2, 0))
    n = pair.shape[1]
    if not n:
        raise ValueError(f"{len(one)} scores can't be paired with {len(two)}")
    if not np.isfinite(pair).all():
        raise ValueError("scores must be finite")
    scores, differences = pair.mean(axis=1), pair[0] - pair[1]
    interval: tuple[float | None, float | None]
    mean = math.fsum(differences) / n
    if clusters is None and np.isin(pair, (0.0, 1.0)).all():
        better, worse = int((differences > 0).sum()), int((differences < 0).sum())
        interval = _tango(better, worse, n)
        p, test = _mcnemar(better, worse), "McNemar"
    else:
        sums = in_clusters(differences[:, None], clusters)[:, 0]
        interval = _student(in_clusters((differences - mean)[:, None], clusters)[:, 0], mean, n)
        p, test = _share_as_far(sums[sums != 0]), "sign flips"
    number = None if clusters is None else len(set(clusters))
    return Difference(n, number, float(scores[0]), float(scores[1]), mean, *interval, p, test)


def _mcnemar(better: int, worse: int) -> float:
    """Return the exact two-sided p-value of so many examples on which one program is better."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))


def _student(off: NDArray[np.float64], mean: float, n: int) -> tuple[float | None, float | None]:
    """Return Student's interval, from the sums of each cluster's deviations from the mean."""
    from scipy.special import stdtrit

    count, squares = len(off), float((off**2).sum())
    if count < 2 or squares <= 1e-18 * n:
        return None, None
    half = float(stdtrit(count - 1, 1 - LEVEL / 2)) * math.sqrt(count / (count - 1) * squares) / n
    return mean - half, mean + half


def _tango(better: int, worse: int, n: int) -> tuple[float, float]:
    """Return the differences of two shares whose score test they just pass (Tango 1998)."""
    z, estimate = NormalDist().inv_cdf(1 - LEVEL / 2), (better - worse) / n

    def passes(difference: float) -> bool:
        # The likeliest share of examples on which only the second program is right.
        b = (2 * n - better + worse) * difference - better - worse
        root = math.sqrt(max(0.0, b * b + 8 * n * worse * difference * (1 - difference)))
        variance = n * ((root - b) / (2 * n) + difference * (1 - difference))
        return (better - worse - n * difference) ** 2 <= z * z * variance

    def last(edge: float) -> float:
        inside, outside = estimate, edge
        for _ in range(_NUM_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if passes(middle) else (inside, middle)
        return inside

    return last(-1.0), last(1.0)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons, in the given order (Holm 1979)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, position in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[position]))
        adjusted[position] = largest
    return adjusted
