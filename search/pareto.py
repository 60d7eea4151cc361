"""The Pareto front of bits against score: fewer bits and a higher score are better."""

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
