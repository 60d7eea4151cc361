"""What a program changed, from the same examples with and without it.

The interval of a change is Student's for the mean of paired differences, each for itself. Whether a
change is more than noise is decided apart from it: by a sign-flip test (Fisher 1935), which assumes
no distribution, and with Holm's rule (1979) over everything that one scorecard compares, so that
the probability of a single wrong verdict among all of them is at most the level. Comparisons with
so few differences that no signs could be significant are not counted among them (Tarone 1990).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.05
_NUM_FLIPS = 20_000
_FLIPS_AT_ONCE = 2_000


@dataclass(frozen=True)
class Change:
    """A mean with a program, without it, and the difference.

    Attributes:
        num_examples: in both.
        base: mean without the program.
        value: mean with it.
        change: `value - base`.
        lower: of the 95 % interval of the change, None with a single example.
        upper: its other end.
        p: of the sign-flip test, two-sided; None where too few examples differ for it to say
            anything, whatever their signs.
    """

    num_examples: int
    base: float
    value: float
    change: float
    lower: float | None
    upper: float | None
    p: float | None


def paired_change(values: Sequence[float], base: Sequence[float]) -> Change:
    """Return how `values` differ from `base`, the same examples in the same order.

    Raises:
        ValueError: if there are none, they are not equally many, or one is not finite.
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
        error = float(differences.std(ddof=1)) / math.sqrt(n)
        half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * error
        lower, upper = mean - half, mean + half
    p = _sign_flip(differences[differences != 0])
    return Change(n, float(without.mean()), float(with_.mean()), mean, lower, upper, p)


def _sign_flip(differences: NDArray[np.float64]) -> float | None:
    """Return how often random signs make a mean at least as far from 0."""
    # All signs alike are the most extreme, and there are two of them among 2^n.
    if 2.0 ** (1 - differences.size) > LEVEL:
        return None
    # Sums that are equal but for rounding count as equal.
    least = abs(differences.sum()) * (1 - 1e-9)
    # The seed is fixed on purpose: the same differences always get the same verdict.
    rng = np.random.default_rng(differences.size)
    as_far = 0
    for _ in range(_NUM_FLIPS // _FLIPS_AT_ONCE):
        signs = rng.choice((-1.0, 1.0), size=(_FLIPS_AT_ONCE, differences.size))
        as_far += int((np.abs(signs @ differences) >= least).sum())
    return (as_far + 1) / (_NUM_FLIPS + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values that hold for all of them at once, in their order (Holm 1979)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted
