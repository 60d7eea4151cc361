"""The candidates that others are made from, and what a result adds to the front.

Only results of one rung are compared with each other. Of each rung the front and the front of the
rest are kept, the others are forgotten, so the state does not grow with the number of results.
"""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from search import pareto
from search.candidate import Candidate
from search.pareto import Measured, pareto_front

# A program of 8 MiB adds nothing. Fixed, so that gains of different runs and times compare.
REFERENCE_BITS = 2.0**26
# With fewer members than this a rung says little about where to go on.
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
        """Return the logarithm of its bits."""
        return log2_bits(self.bits)


def log2_bits(bits: int) -> float:
    """Return the logarithm of a length; no bits at all count as one."""
    return math.log2(max(bits, 1))


def hypervolume(points: Iterable[Measured]) -> float:
    """Return the area below the front of `points`, up to `REFERENCE_BITS`."""
    return pareto.hypervolume(points, REFERENCE_BITS)


class Population:
    """The members of one base model by rung."""

    def __init__(self) -> None:
        self._rungs: dict[int, list[Member]] = {}

    def add(self, rung: int, member: Member) -> float:
        """Take in a result and return what it adds to the hypervolume of its rung.

        The first result of a rung has nothing to be compared with and adds 0.
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
        """Return the front and what is next to it at the highest rung that has enough of them."""
        known = {
            rung: [member for member in members if member.candidate is not None]
            for rung, members in sorted(self._rungs.items(), reverse=True)
        }
        enough = [found for found in known.values() if len(found) >= _ENOUGH_MEMBERS]
        return next(iter([*enough, *filter(None, known.values())]), [])

    def front(self, rung: int) -> list[Member]:
        """Return the front at a rung by increasing length."""
        return pareto_front(self._rungs.get(rung, []))


def pick(
    members: Iterable[Member], rng: random.Random, fit: Callable[[Member], bool] = lambda _: True
) -> Member | None:
    """Return one of the members that fit, spread over lengths: all log2 of bits come up alike."""
    found = [member for member in members if fit(member)]
    if not found:
        return None
    lengths = [member.length for member in found]
    aim = rng.uniform(min(lengths), max(lengths))
    distances = [abs(length - aim) for length in lengths]
    nearest = min(distances)
    return rng.choice([m for m, d in zip(found, distances, strict=True) if d == nearest])
