"""Bits-aware successive halving: promote a candidate while it can still improve the Pareto front.

The length of a program is known and free of noise, its score is neither. So a candidate is compared
only with candidates that are not longer, paired by example. There are two kinds of candidates:

- A candidate that no more training will change (a prompt, an adapter after its last step) has to
  score above the incumbent at its length: the best candidate that is not longer.
- A candidate that is still in training may yet overtake, so it is compared only with candidates
  that have as many rungs of training left, and may score below them. While less than 1/eta^2 of its
  training is done, where scores say little yet, it is not judged at all.

A candidate that passes is promoted unless too many dominate it, that is, are not longer and at
least as good at this rung. An epsilon-net of cells in log2 of the bits sets the limit: one in eta
of the results reported in its cell. So one crowded length does not take all the examples, and a
candidate without a dominating one is always promoted. The incumbent is chosen by a lower bound of
its score, because the best of many scores on a few examples is mostly luck.

A candidate in training that has had that share of it, and scores no more than the shortest program
of its model that was scored at the rung (as a rule the bare question), has learned nothing so far.
It is promoted, but goes on only when nothing else is left to try.
"""

import math
from collections.abc import Sequence

import numpy as np

from kilobit.search.schedulers.asha import first_layer
from kilobit.search.schedulers.racing import Incumbent, incumbent_of
from kilobit.search.schedulers.scheduler import Action, Decision, Result, RungResults, RungRule

# Half the width of a cell in doublings of the length.
CELL = 1.0
# A candidate in training is judged only when at most this many rungs of training are left.
_RUNGS_THAT_TELL = 2


class _Front:
    """The candidates that passed a rung, and their front by length and lower bound of the score."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}
        self._members: tuple[Incumbent, ...] | None = None

    def add(self, candidate: str, bits: int, low: float) -> None:
        """Record a candidate's length and lower bound; they replace its earlier ones."""
        self._known[candidate] = bits, low
        if self._members is None:
            return
        best = incumbent_of(self._members, bits)
        was_there = any(member.candidate == candidate for member in self._members)
        if was_there or best is None or low > best.score:
            self._members = None

    def members(self) -> tuple[Incumbent, ...]:
        """Return the front by increasing length; of equal candidates the earliest."""
        if self._members is None:
            names = list(self._known)
            numbers = np.array(list(self._known.values()))
            order = np.lexsort((-numbers[:, 1], numbers[:, 0]))
            rising = order[first_layer(numbers[order, 1])]
            self._members = tuple(Incumbent(names[i], *self._known[names[i]]) for i in rising)
        return self._members


class BitsAware(RungRule):
    """Promote a candidate while it can still improve the Pareto front; see the module's text.

    Args:
        num_rungs: number of rungs of the ladder.
        eta: one in `eta` may be promoted where the number is limited.
        sizes: number of examples of each rung.
    """

    races = True

    def __init__(self, *, num_rungs: int, eta: int, sizes: Sequence[int]) -> None:
        super().__init__(num_rungs=num_rungs, eta=eta)
        assert len(sizes) == num_rungs
        self._sizes = tuple(sizes)
        self._fronts: dict[tuple[str, int, int], _Front] = {}
        # By model and rung, the length and score of the shortest program with the model.
        self._shortest: dict[tuple[str, int], tuple[int, float]] = {}
        # By candidate, the first rung from which no more training changes it.
        self._trained_at: dict[str, int] = {}

    def incumbents(self, model: str, rung: int, *, left: int) -> tuple[Incumbent, ...]:
        """Return the incumbents that a candidate has to beat at `rung`, by increasing length.

        Args:
            model: its base model.
            rung: index of the rung.
            left: rungs until no more training changes it.
        """
        front = self._fronts.get((model, rung, left))
        return front.members() if front else ()

    def _group(self, result: Result) -> tuple[str, int, int]:
        return result.model, result.rung, result.left

    def _judge(self, result: Result, results: RungResults) -> tuple[bool, str, tuple[str, ...]]:
        assert result.score is not None
        assert result.bits is not None
        gap, rivals = result.gap, () if result.against is None else (result.against,)
        if gap is None:
            return True, self._why_alone(result), ()
        versus = f"{gap:+.3f} against the incumbent at its length"
        if result.verdict == "loses" and not result.left:
            return False, f"it can't beat the incumbent at its length ({gap:+.3f})", rivals
        if not result.left and gap <= 0:
            return False, f"it does not improve the front: {versus}", rivals
        if result.left > _RUNGS_THAT_TELL:
            return True, f"its training has hardly begun ({versus})", rivals
        # A length of 0 bits counts as 1.
        log_bits = np.log2(np.maximum(results.bits, 1))
        cell = np.abs(log_bits - log_bits[-1]) <= CELL
        quota = max(1, int(cell.sum()) // self._eta)
        # Dominating candidates: not longer and at least as good.
        beats = (results.bits <= result.bits) & (results.scores >= result.score) & cell
        ahead = int(beats[:-1].sum())
        reason = (
            f"{versus}, dominated by {ahead} of {int(cell.sum())} of similar length, "
            f"promoted if by fewer than {quota}"
        )
        return ahead < quota, reason, rivals

    def _why_alone(self, result: Result) -> str:
        """Return why a candidate was compared with no incumbent."""
        assert result.bits is not None
        there = self.incumbents(result.model, result.rung, left=result.left)
        if incumbent_of(there, result.bits) is not None:
            return "no incumbent was as short when it was scored"
        if result.left:
            return "no candidate with as much training left is as short"
        return "no incumbent is as short"

    def _record(self, result: Result) -> RungResults | None:
        results = super()._record(result)
        if results is not None and not result.model_free:
            assert result.score is not None
            assert result.bits is not None
            key, found = (result.model, result.rung), (result.bits, result.score)
            self._shortest[key] = min(self._shortest.get(key, found), found, key=lambda one: one[0])
        return results

    def _why_later(self, result: Result) -> str:
        assert result.score is not None
        bits, score = self._shortest[result.model, result.rung]
        alone = result.bits == bits
        if alone or not 0 < result.left <= _RUNGS_THAT_TELL or result.score > score:
            return ""
        return (
            f"it waits until nothing else is left to try: {result.score:.3f} is no more than the "
            f"{score:.3f} of the shortest program ({bits} bits)"
        )

    def note_finished(self, result: Result) -> None:
        """Make it an incumbent at the last rung, the only one where it was scored."""
        assert result.score is not None
        assert result.bits is not None
        key = (result.model, self._num_rungs - 1, 0)
        low = self._low(result)
        self._fronts.setdefault(key, _Front()).add(result.candidate, result.bits, low)

    def _low(self, result: Result) -> float:
        """Return a lower bound of a score: the score minus its largest possible standard error."""
        assert result.score is not None
        return result.score - math.sqrt(0.25 / self._sizes[result.rung])

    def _passed(self, result: Result) -> None:
        """Make the candidate an incumbent at this rung and below, by its newest lower bound."""
        assert result.bits is not None
        low = self._low(result)
        trained_at = self._trained_at.setdefault(result.candidate, result.rung + result.left)
        for rung in range(result.rung + 1):
            key = (result.model, rung, max(0, trained_at - rung))
            self._fronts.setdefault(key, _Front()).add(result.candidate, result.bits, low)


class RungJudge:
    """The rule for loops of others: from scores and lengths alone, without examples and races.

    A candidate's gap is its score minus that of its incumbent at the rung, where both were scored
    on the same examples or not.

    Args:
        sizes: number of examples that a score is the mean of, for each rung.
        eta: one in `eta` may be promoted where the number is limited.
        trained: no more training changes a candidate, as with prompts; by default each has training
            left until the last rung.

    Raises:
        ValueError: if there is no rung, a size is below 1, or `eta` is below 2.
    """

    def __init__(self, sizes: Sequence[int], *, eta: int = 3, trained: bool = False) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes: a number of examples for each rung is needed, found {sizes}")
        if eta < 2:
            raise ValueError(f"eta: 2 or more is allowed, found {eta}")
        self.num_rungs, self._trained = len(sizes), trained
        self._rule = BitsAware(num_rungs=len(sizes), eta=eta, sizes=sizes)
        self._scores: dict[tuple[str, int], float] = {}

    def judge(self, candidate: str, rung: int, score: float, bits: int) -> Decision:
        """Record a result and return the decision; a repeated one gets the first decision.

        Args:
            candidate: its name.
            rung: index of the rung, from 0 and without gaps.
            score: a mean from 0 to 1, or NaN for a failed candidate.
            bits: its length.

        Raises:
            ValueError: if the score is out of range, or the rung is or leaves one out.
        """
        return self._rule.report(self._result(candidate, rung, score, bits))

    def replay(self, candidate: str, rung: int, score: float, bits: int, action: Action) -> None:
        """Record a result whose decision is known, unless it has been recorded already.

        The arguments and errors are those of `judge`.
        """
        if self._rule.decided(candidate, rung) is None:
            result = self._result(candidate, rung, score, bits)
            self._rule.replay(result, Decision(candidate, rung, action, "decided before"))

    def _result(self, candidate: str, rung: int, score: float, bits: int) -> Result:
        if not 0 <= rung < self.num_rungs:
            raise ValueError(f"rung: 0 to {self.num_rungs - 1} are allowed, found {rung}")
        if rung and (candidate, rung - 1) not in self._scores:
            raise ValueError(f"rung: {candidate} has no result at rung {rung - 1}, found {rung}")
        if score < 0 or score > 1:
            raise ValueError(f"score: a mean from 0 to 1 is needed, found {score}")
        left = 0 if self._trained else self.num_rungs - 1 - rung
        there = self._rule.incumbents("", rung, left=left)
        best = incumbent_of([one for one in there if one.candidate != candidate], bits)
        gap = None if best is None else score - self._scores[best.candidate, rung]
        self._scores.setdefault((candidate, rung), score)
        against = None if best is None else best.candidate
        return Result(candidate, "", rung, score, bits, None, against, gap, left)
