"""The Pareto front of bits against score: fewer bits and a higher score are better."""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Measured(Protocol):
    """Anything with a length and a score."""

    @property
    def bits(self) -> int:
        """Return the length in bits by which the points are compared."""
        ...

    @property
    def score(self) -> float:
        """Return the score in [0, 1]."""
        ...


P = TypeVar("P", bound=Measured)
# A program of 8 MiB adds no hypervolume. Fixed, so that gains of different runs are comparable.
REFERENCE_BITS = 2.0**26


@dataclass(frozen=True)
class Bjontegaard:
    """Average difference of two fronts.

    Attributes:
        doublings: log2 of the bits of the first minus those of the second, on average; below 0 the
            first front is shorter.
        low: lowest score of the common range.
        high: highest score of it.
    """

    doublings: float
    low: float
    high: float


def log2_bits(bits: int) -> float:
    """Return log2 of a length in bits; a length of 0 counts as 1."""
    return math.log2(max(bits, 1))


def pareto_front(points: Iterable[P]) -> list[P]:
    """Return the points that no other point dominates, by increasing length.

    A point is dominated by one that is not longer and scores at least as well; of equal points the
    first stays.
    """
    front: list[P] = []
    for point in sorted(points, key=lambda p: (p.bits, -p.score)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return front


def complexity(front: Iterable[P], target: float) -> int | None:
    """Return the bits of the shortest point with a score of at least `target`, or None."""
    return min((p.bits for p in front if p.score >= target), default=None)


def hypervolume(points: Iterable[Measured], reference_bits: float = REFERENCE_BITS) -> float:
    """Return the area that the points' front dominates, in doublings of length times score.

    The reference point is (`reference_bits`, score 0); points as long as that or longer add
    nothing.
    """
    area, best, edge = 0.0, 0.0, math.log2(reference_bits)
    for point in pareto_front(points):
        right = edge - log2_bits(point.bits)
        if right > 0 and point.score > best:
            area += right * (point.score - best)
            best = point.score
    return area


class GrowingFront:
    """The hypervolume of a front to which points are added one by one.

    After every point `area` equals `hypervolume` of all points so far, up to rounding. Adding a
    point takes time logarithmic in the front's size, plus the number of points that it removes.

    Args:
        reference_bits: length of the reference point, whose score is 0.
    """

    def __init__(self, reference_bits: float) -> None:
        self.area = 0.0
        self._edge = math.log2(reference_bits)
        # The front: log2 of the bits and the scores, both increasing.
        self._lengths: list[float] = []
        self._scores: list[float] = []

    def add(self, bits: int, score: float) -> bool:
        """Add a point and return whether it is on the front and gained area."""
        length = log2_bits(bits)
        first = bisect_left(self._lengths, length)
        below = self._scores[first - 1] if first else 0.0
        if length >= self._edge or score <= below:
            return False
        last, level, lost = first, below, 0.0
        while last < len(self._scores) and self._scores[last] <= score:
            lost += (self._edge - self._lengths[last]) * (self._scores[last] - level)
            level = self._scores[last]
            last += 1
        if last < len(self._scores):
            if self._lengths[last] == length:
                # A point of the same length scores higher.
                return False
            lost += (self._edge - self._lengths[last]) * (score - level)
        gained = (self._edge - length) * (score - below) - lost
        if gained <= 0:
            return False
        self.area += gained
        self._lengths[first:last] = [length]
        self._scores[first:last] = [score]
        return True


def bjontegaard(one: Iterable[Measured], other: Iterable[Measured]) -> Bjontegaard | None:
    """Return the average difference of two fronts in log2 of bits, over their common scores.

    The measure of Bjøntegaard (VCEG-M33, 2001), who fits a cubic to each curve. Fronts are steps: a
    score takes the bits of the shortest program that reaches it. So the integral is exact and
    nothing is fitted. The common range is that of the method: from the higher of the two lowest
    scores on the fronts to the lower of the two highest.

    Args:
        one: points of the front that is compared.
        other: points of the front that it is compared with; lengths below 1 count as 1 bit.

    Returns:
        None if there is no common range.
    """
    fronts = [pareto_front(each) for each in (one, other)]
    if not all(fronts):
        return None
    low, high = max(f[0].score for f in fronts), min(f[-1].score for f in fronts)
    if low >= high:
        return None
    scores = sorted({p.score for front in fronts for p in front if low < p.score <= high} | {high})
    area, before = 0.0, low
    for score in scores:
        # Every target above `before` and up to `score` takes the same programs.
        needed = [next(p.bits for p in front if p.score >= score) for front in fronts]
        area += (score - before) * (log2_bits(needed[0]) - log2_bits(needed[1]))
        before = score
    return Bjontegaard(area / (high - low), low, high)
