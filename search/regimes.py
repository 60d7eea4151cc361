"""The same task under several base models: lengths side by side, and their ratios.

Every length L(A) of a program found under A is an upper bound of the complexity C(T_δ|A), and no
complexity is below 0. So C(T_δ|A) - C(T_δ|B), the information about the task at this score that is
in B and not in A, is at most L(A): A and those bits suffice for the score. L(A) - L(B) and
L(A) / L(B) compare the programs that the search found. They bound the difference and the ratio of
complexities neither from above nor from below, because a shorter program may exist under either.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search.certified import certified_complexity
from search.front import FrontPoint
from search.pareto import complexity

# Scores at which curves are compared besides the targets.
_STEPS = tuple(step / 10 for step in range(1, 10))


@dataclass(frozen=True)
class Lengths:
    """The shortest programs of one base model at one score.

    Attributes:
        found: bits of the shortest program that reaches the score on the search split, or None.
        certified: bits of the shortest with a lower bound on the sealed split that reaches it, or
            None.
    """

    found: int | None
    certified: int | None


@dataclass(frozen=True)
class Collapse:
    """The difference of the shortest programs at one score between two base models.

    Attributes:
        before: the base model that comes first.
        after: the base model that comes second.
        target: the score.
        factor: bits before over bits after; a program of 0 bits counts as 1 bit.
        information: most bits of information about the task that `after` can have and `before`
            not: the length of the program before.
        certified: whether both programs were certified at this score.
    """

    before: str
    after: str
    target: float
    factor: float
    information: int
    certified: bool


def lengths(points: Sequence[FrontPoint], model: str, target: float) -> Lengths:
    """Return the shortest lengths of one base model at a score; the points are of one task."""
    own = [point for point in points if point.model == model]
    return Lengths(complexity(own, target), certified_complexity(own, target))


def rows_of(
    points: Sequence[FrontPoint], models: Sequence[str], targets: Iterable[float]
) -> list[tuple[float, list[Lengths]]]:
    """Return the targets, and other scores that a base model reaches, with the lengths of each."""
    scores = sorted({*targets, *_STEPS})
    rows = [(score, [lengths(points, model, score) for model in models]) for score in scores]
    wanted = set(targets)
    return [
        (score, each)
        for score, each in rows
        if score in wanted or any(one.found is not None for one in each)
    ]


def collapses(points: Sequence[FrontPoint], models: Sequence[str], target: float) -> list[Collapse]:
    """Return the collapse of each pair of base models, in order, that both reach `target`.

    Certified lengths are compared where both have one, else those found on the search split.
    """
    found = []
    for place, before in enumerate(models):
        one = lengths(points, before, target)
        for after in models[place + 1 :]:
            other = lengths(points, after, target)
            certified = one.certified is not None and other.certified is not None
            above = one.certified if certified else one.found
            below = other.certified if certified else other.found
            if above is not None and below is not None:
                factor = max(1, above) / max(1, below)
                found.append(Collapse(before, after, target, factor, above, certified))
    return found
