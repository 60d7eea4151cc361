"""The candidates that new ones are made from, and the gain of each result on the front.

Only results of the same rung are compared. Of each rung the front and the second layer (the front
of the rest) are kept and all other results dropped, so the state does not grow with their number.
"""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from kilobit.search.candidate import Candidate
from kilobit.search.front import pareto
from kilobit.search.front.pareto import Measured, pareto_front

# A program of 8 MiB adds no hypervolume. Fixed, so that gains of different runs are comparable.
REFERENCE_BITS = 2.0**26
# A rung with fewer members than this is too sparse to choose parents from.
_ENOUGH_MEMBERS = 4


@dataclass(frozen=True)
class Member:
    """A candidate with its result at a rung; `candidate` is None if only its id is known."""

    name: str
    bits: int
    score: float
    candidate: Candidate | None

    @cached_property
    def length(self) -> float:
        """Return log2 of its bits."""
        return log2_bits(self.bits)


def log2_bits(bits: int) -> float:
    """Return log2 of a length in bits; a length of 0 counts as 1."""
    return math.log2(max(bits, 1))


def hypervolume(points: Iterable[Measured]) -> float:
    """Return the area below the front of `points`, up to `REFERENCE_BITS`."""
    return pareto.hypervolume(points, REFERENCE_BITS)


class Population:
    """The members of one base model by rung."""

    def __init__(self) -> None:
        self._rungs: dict[int, list[Member]] = {}

    def add(self, rung: int, member: Member) -> float:
        """Add a result and return its gain in hypervolume at its rung.

        The first result of a rung has nothing to be compared with and gains 0.
        """
        before = self._rungs.get(rung, [])
        first = pareto_front([*before, member])
        inside = {m.name for m in first}
        second = pareto_front(m for m in (*before, member) if m.name not in inside)
        self._rungs[rung] = first + second
        if not before or member.name not in inside:
            return 0.0
        return hypervolume(first) - hypervolume(before)

    def members(self) -> list[Member]:
        """Return the front and second layer of the highest rung with enough members."""
        known = {
            rung: [member for member in members if member.candidate is not None]
            for rung, members in sorted(self._rungs.items(), reverse=True)
        }
        enough = [found for found in known.values() if len(found) >= _ENOUGH_MEMBERS]
        return next(iter([*enough, *filter(None, known.values())]), [])


def pick(
    members: Iterable[Member], rng: random.Random, fit: Callable[[Member], bool] = lambda _: True
) -> Member | None:
    """Return a random member that fits, spread evenly over log2 of bits; None if none fits."""
    found = [member for member in members if fit(member)]
    if not found:
        return None
    lengths = [member.length for member in found]
    aim = rng.uniform(min(lengths), max(lengths))
    distances = [abs(length - aim) for length in lengths]
    nearest = min(distances)
    return rng.choice([m for m, d in zip(found, distances, strict=True) if d == nearest])
