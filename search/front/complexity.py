"""Task complexity from programs: base models compared, and what the sealed split certifies.

The same task under several base models: lengths side by side, and their ratios.

Every length L(A) of a program found under A is an upper bound of the complexity C(T_δ|A), and no
complexity is below 0. So C(T_δ|A) - C(T_δ|B), the information about the task at this score that is
in B and not in A, is at most L(A): A and those bits suffice for the score. L(A) - L(B) and
L(A) / L(B) compare the programs that the search found. They bound the difference and the ratio of
complexities neither from above nor from below, because a shorter program may exist under either.

Certified complexity: proven by the sealed split, over seeds and between base models.

Every length is an upper bound of the complexity. A seed in which no program was certified has no
value; it is left out of means, and reported as missing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kilobit.search.front.pareto import complexity
from kilobit.search.front.points import FrontPoint

# Scores at which curves are compared besides the targets.
_STEPS = tuple(step / 10 for step in range(1, 10))
LEVEL = 0.95
# A t-interval of two values is too wide to be useful; the values are shown instead.
_FEWEST_FOR_T = 3


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
    for position, before in enumerate(models):
        one = lengths(points, before, target)
        for after in models[position + 1 :]:
            other = lengths(points, after, target)
            certified = one.certified is not None and other.certified is not None
            above = one.certified if certified else one.found
            below = other.certified if certified else other.found
            if above is not None and below is not None:
                factor = max(1, above) / max(1, below)
                found.append(Collapse(before, after, target, factor, above, certified))
    return found


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
    from scipy.special import stdtrit

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
