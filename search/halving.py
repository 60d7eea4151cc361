"""Asynchronous successive halving on score, length-aware: who goes on, who stops, and why.

The rule is that of ASHA (Li et al. 2018) with one change. The length of a program is known and
free of noise, so at a rung a candidate is compared only with candidates of the same base model
that are no longer than itself: it goes on if it is among the best 1/eta of them. A short program
is thus never stopped by a long one, and a long one has to beat the shorter ones to be worth its
bits.

Integers only; no clock, no random numbers, no global state. The same reports in the same order give
the same decisions. A candidate without a score (failed, NaN) stops and is compared with nobody; of
two equal scores the shorter program ranks first, then the one that reported first.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["promote", "stop", "finish"]
# A decision names the best of its rivals only: all of them would be quadratic in the candidates.
_NAMED_RIVALS = 16


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a candidate after a rung, why, and the best of those it was compared with."""

    candidate: str
    rung: int
    action: Action
    reason: str
    compared_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Result:
    candidate: str
    score: float
    bits: int


class Halving:
    """The state of one search: for each base model and rung, who reported what.

    Args:
        num_rungs: length of the ladder; the last rung is never followed by another.
        eta: one in `eta` goes on.
        length_aware: compare with candidates that are no longer only; False compares with all.
    """

    def __init__(self, *, num_rungs: int, eta: int, length_aware: bool = True) -> None:
        assert num_rungs >= 1
        assert eta >= 2
        self._num_rungs, self._eta, self._length_aware = num_rungs, eta, length_aware
        self._results: dict[tuple[str, int], list[_Result]] = defaultdict(list)
        self._decisions: dict[tuple[str, int], Decision] = {}

    def report(
        self, candidate: str, *, model: str, rung: int, score: float | None, bits: int | None
    ) -> Decision:
        """Take in the result of `candidate` at `rung` and return what happens to it.

        A repeated report changes nothing and gets the first answer.
        """
        assert 0 <= rung < self._num_rungs
        known = self._decisions.get((candidate, rung))
        if known is None:
            known = self._decide(candidate, model, rung, score, bits)
            self._decisions[candidate, rung] = known
        return known

    def replay(
        self, decision: Decision, *, model: str, score: float | None, bits: int | None
    ) -> None:
        """Take in a result that was decided before: what was recorded stands."""
        self._decisions[decision.candidate, decision.rung] = decision
        if score is not None and bits is not None and not math.isnan(score):
            result = _Result(decision.candidate, score, bits)
            self._results[model, decision.rung].append(result)

    def _decide(
        self, candidate: str, model: str, rung: int, score: float | None, bits: int | None
    ) -> Decision:
        if score is None or bits is None or math.isnan(score):
            return Decision(candidate, rung, "stop", "it has no score")
        mine = _Result(candidate, score, bits)
        results = self._results[model, rung]
        rivals = [r for r in results if r.bits <= bits or not self._length_aware]
        results.append(mine)
        names = _best(rivals)
        better = sum(r.score > score or (r.score == score and r.bits <= bits) for r in rivals)
        if rung == self._num_rungs - 1:
            return Decision(candidate, rung, "finish", "it completed the last rung", names)
        places = max(1, (len(rivals) + 1) // self._eta)
        scope = "no longer than it" if self._length_aware else "at this rung"
        rank = f"rank {better + 1} of {len(rivals) + 1} {scope}, {places} may go on"
        if better < places:
            return Decision(candidate, rung, "promote", rank, names)
        return Decision(candidate, rung, "stop", rank, names)


def _best(rivals: Sequence[_Result]) -> tuple[str, ...]:
    best = heapq.nsmallest(_NAMED_RIVALS, rivals, key=lambda rival: (-rival.score, rival.bits))
    return tuple(rival.candidate for rival in best)
