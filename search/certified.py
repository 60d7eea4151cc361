"""Certified complexity: proven by the sealed split, over seeds and between base models.

Every length is an upper bound of the complexity. A seed in which no program was certified has no
value; it is left out of means, and reported as missing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from search.front import FrontPoint

LEVEL = 0.95
# A t-interval of two values is too wide to be useful; the values are shown instead.
_FEWEST_FOR_T = 3


def certified_complexity(points: Iterable[FrontPoint], target: float) -> int | None:
    """Return the bits of the shortest program with a lower bound on the sealed split >= target.

    None if there is none. The bounds hold for all programs at once, so the shortest may be taken.
    """
    return min((p.bits for p in points if _lower(p) >= target), default=None)


def best_lower(points: Iterable[FrontPoint]) -> float | None:
    """Return the best lower bound on the sealed split, or None without any."""
    best = max(map(_lower, points), default=-1.0)
    return best if best >= 0 else None


def _lower(point: FrontPoint) -> float:
    certificate = point.certificate
    return -1.0 if certificate is None or certificate.lower is None else certificate.lower


@dataclass(frozen=True)
class Spread:
    """The mean of a few values and its interval.

    Attributes:
        values: one per seed.
        mean: their mean, None without any value.
        low: lower end of the interval, None without any value.
        high: upper end of the interval, None without any value.
        method: `t-interval` of level 0.95, or `min - max` of fewer than three values.
    """

    values: tuple[float, ...]
    mean: float | None
    low: float | None
    high: float | None
    method: str


def spread(values: Sequence[float]) -> Spread:
    """Return the mean of `values` with its interval over seeds.

    Raises:
        ValueError: if a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        raise ValueError(f"values must be finite, found {list(values)}")
    n, found = len(values), tuple(values)
    if not n:
        return Spread(found, None, None, None, "min - max")
    mean = math.fsum(values) / n
    if n < _FEWEST_FOR_T:
        return Spread(found, mean, min(values), max(values), "min - max")
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * math.sqrt(variance / n)
    return Spread(found, mean, mean - half, mean + half, "t-interval")


def log2_bits(bits: Mapping[int, int | None]) -> dict[int, float]:
    """Return log2 of the bits of each seed that has a value; 0 bits count as 1."""
    return {seed: math.log2(max(1, found)) for seed, found in bits.items() if found is not None}


def log2_ratios(
    these: Mapping[int, int | None], those: Mapping[int, int | None]
) -> dict[int, float]:
    """Return log2 of the ratio of both, seed by seed, for seeds that have both."""
    above, below = log2_bits(these), log2_bits(those)
    return {seed: above[seed] - below[seed] for seed in above if seed in below}
