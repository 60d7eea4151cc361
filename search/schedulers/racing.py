"""Racing within a rung: stop scoring a candidate once it lost against the incumbent or beat it.

A candidate is scored block by block, paired by example with the incumbent at its length: the best
candidate that is not longer. Each side of the race is a capital that bets against one claim about
the differences candidate - incumbent. While its claim is true, a capital does not grow in
expectation, so the chance that it ever reaches 1 / level is at most `level`, however often one
looks (Ville 1939), and the race may stop at any example. The bets are those of Waudby-Smith and
Ramdas 2024, "Estimating means of bounded random variables by betting" (JRSS-B, arXiv 2010.09686),
with the mean of a few fixed bets as capital. An example on which both score the same is no evidence
for either side.

Given the incumbent's scores on all examples of the rung, the claims are about exactly these
examples, a sample without replacement, so fewer of them are needed (same paper); and a verdict that
follows from counting alone is free of error. The order being random, that holds in clusters too.

Not promised: without the incumbent's scores the claims are about the mean over endless independent
examples, which those in clusters are not: there it is up to the caller not to race. With them, two
programs of equal quality get a verdict where their scores on this rung differ, as comparing the
finished rungs would give. The level is for one race, not for a whole search, and assumes that the
order of the examples is random and did not influence the choice of the two. No clock, no random
numbers: the same scores give the same verdict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pydantic import Field

from kilobit.search.settings import Config

Verdict = Literal["beats", "loses"]

# Of nine sets of one to four bets, this one needed at most 1.2 times the examples of the best set
# in every case (three kinds of scores, differences of 0.05 to 0.8, rungs of 16 to 432, levels 0.01
# and 0.05).
_BETS = (0.4, 0.9)
# A bet grows without bound as the claim becomes impossible. Betting against a claim that is weaker
# by this much is valid, and keeps rounding errors harmless.
_MARGIN = 1e-6


class RacingConfig(Config):
    """Settings of racing, which ends the scoring of a candidate within a rung."""

    enabled: bool = True
    """stop scoring within a rung"""
    level: float = Field(default=0.05, gt=0, lt=1)
    """largest chance that a candidate as good as the incumbent is eliminated"""


@dataclass(frozen=True)
class Incumbent:
    """A candidate to beat: its id, its length, its score in [0, 1]."""

    candidate: str
    bits: int
    score: float


def incumbent_of(front: Sequence[Incumbent], bits: int) -> Incumbent | None:
    """Return the best incumbent that is not longer than `bits`, or None if there is none.

    Of equal scores the shortest is taken, then the one that comes first.
    """
    within = (one for one in front if one.bits <= bits)
    return max(within, key=lambda one: (one.score, -one.bits), default=None)


class Race:
    """The race of a candidate against its incumbent on one rung.

    "loses" is wrong with a chance of at most `level` if the candidate's mean is at least the
    incumbent's, "beats" if it is at most the incumbent's; each side has the whole level, because
    each claim is refuted by one side only. The verdict does not depend on how examples are split
    into blocks.

    Args:
        level: the error level of each verdict.
        incumbent: the incumbent's scores on all examples of the rung, in their order, if known.
            The claims are then about the means over exactly these examples. "loses" is also given
            when perfect scores on all that remain could not lift the candidate to the incumbent's
            mean, "beats" when no scores could bring it down there; both without error, so that
            only equal means leave a finished rung without a verdict.

    Attributes:
        beats: the capital that is evidence for "beats".
        loses: the capital that is evidence for "loses".

    Raises:
        ValueError: for a level that is not between 0 and 1, or scores that are not in [0, 1].
    """

    def __init__(self, level: float, incumbent: Sequence[float] | None = None) -> None:
        if not 0 < level < 1:
            raise ValueError(f"level {level} is not between 0 and 1")
        self._threshold = -math.log(level)
        self._incumbent = None if incumbent is None else _checked(incumbent)
        # Fractions make counting exact: the sum of the differences so far, and the sum of the
        # incumbent's scores on the remaining examples.
        self._lead = Fraction(0)
        self._ahead = sum(map(Fraction, self._incumbent or ()), Fraction(0))
        self._num_examples = 0
        self.beats, self.loses = _Capital(), _Capital()
        self._verdict: Verdict | None = None

    @property
    def num_examples(self) -> int:
        """Return the number of examples used; none are used after a verdict."""
        return self._num_examples

    def add(self, mine: Sequence[float], theirs: Sequence[float]) -> Verdict | None:
        """Add a block of scores on the same examples and return the verdict, if there is one.

        The first verdict is final: later scores change nothing.

        Raises:
            ValueError: for a score that is NaN or outside [0, 1], blocks of unequal length, more
                examples than the rung has, or a score of `theirs` that is not the known one. The
                race is then unchanged.
        """
        if len(mine) != len(theirs):
            raise ValueError(f"a block of {len(mine)} scores against one of {len(theirs)}")
        pairs = list(zip(_checked(mine), _checked(theirs), strict=True))
        if self._verdict is None:
            self._check_known([score for _, score in pairs])
            for my_score, their_score in pairs:
                self._verdict = self._look(my_score, their_score)
                if self._verdict is not None:
                    break
        return self._verdict

    def _check_known(self, theirs: list[float]) -> None:
        if self._incumbent is None:
            return
        first = self._num_examples
        known = self._incumbent[first : first + len(theirs)]
        if len(known) < len(theirs):
            raise ValueError(
                f"{first + len(theirs)} examples in a rung that has {len(self._incumbent)}"
            )
        for index, (expected, found) in enumerate(zip(known, theirs, strict=True), first):
            if expected != found:
                raise ValueError(f"example {index}: the incumbent has {expected}, not {found}")

    def _look(self, mine: float, theirs: float) -> Verdict | None:
        claimed = 0.0
        if self._incumbent is not None:
            # The mean difference on the remaining examples if that of the whole rung is 0.
            claimed = float(-self._lead / (len(self._incumbent) - self._num_examples))
        difference = mine - theirs
        self.loses.bet(difference, claimed)
        self.beats.bet(-difference, -claimed)
        self._num_examples += 1
        certain = None if self._incumbent is None else self._count(mine, theirs)
        if certain is not None:
            return certain
        if self.loses.log() >= self._threshold:
            return "loses"
        return "beats" if self.beats.log() >= self._threshold else None

    def _count(self, mine: float, theirs: float) -> Verdict | None:
        assert self._incumbent is not None
        self._lead += Fraction(mine) - Fraction(theirs)
        self._ahead -= Fraction(theirs)
        if self._lead > self._ahead:
            return "beats"
        remaining = len(self._incumbent) - self._num_examples
        return "loses" if self._lead + remaining < self._ahead else None


class _Capital:
    """Capital of bets against the claim that the expected difference is at least `claimed`.

    Differences are in [-1, 1]. Each bet multiplies its share by
    1 - bet * (difference - claimed) / (1 - claimed). That is positive, because differences are at
    most 1, and its expectation is at most 1 under the claim.
    """

    def __init__(self) -> None:
        self._logs = [0.0] * len(_BETS)

    def bet(self, difference: float, claimed: float) -> None:
        # `claimed` is at least -1: counting ends the race before less than that would be needed.
        claimed = min(claimed, 1 - _MARGIN)
        outcome = (difference - claimed) / (1 - claimed)
        self._logs = [
            log + math.log1p(-bet * outcome) for log, bet in zip(self._logs, _BETS, strict=True)
        ]

    def log(self) -> float:
        top = max(self._logs)
        return top + math.log(math.fsum(math.exp(x - top) for x in self._logs) / len(self._logs))


def _checked(scores: Sequence[float]) -> list[float]:
    bad = next((score for score in scores if not 0 <= score <= 1), None)
    if bad is not None:
        raise ValueError(f"score {bad} is outside [0, 1]")
    return [float(score) for score in scores]
