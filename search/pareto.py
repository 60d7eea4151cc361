"""The Pareto front of bits against score: fewer bits and a higher score are better."""

import math
from collections.abc import Iterable
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


def pareto_front(points: Iterable[P]) -> list[P]:
    """Return the points that no other point beats, by increasing length.

    A point is beaten by one that is no longer and scores at least as well; of equal points the
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


def hypervolume(points: Iterable[Measured], reference_bits: float) -> float:
    """Return the area that the points' front dominates, in doublings of length times score.

    The reference point is (`reference_bits`, score 0); points as long as that or longer add
    nothing. A length below one bit counts as one.
    """
    area, best, edge = 0.0, 0.0, math.log2(reference_bits)
    for point in pareto_front(points):
        right = edge - math.log2(max(point.bits, 1))
        if right > 0 and point.score > best:
            area += right * (point.score - best)
            best = point.score
    return area
