"""Bits-aware successive halving: goes on who can still raise the front.

The length of a program is known and free of noise, its score is neither. So a candidate is compared
only with candidates that are no longer, paired by example, and there are two kinds of it:

- one that no more training will change (a prompt, an adapter after its last step) has to be above
  the incumbent at its length: the best of those that are not longer.
- one that is still in training may yet overtake, so it is compared only with others that are as far
  from their end, and may be below. While less than 1/eta^2 of its training is done, where scores
  say little yet, it is not judged at all.

Who is left goes on unless too many beat it: they are no longer and at least as good at this rung.
An epsilon-net of cells in log2 of the bits says how many may, one in eta of those that reported in
its cell, so one crowded length does not take all the examples, and who nobody beats always goes on.
The incumbent is chosen by the lower end of what is known of it, because the best of many scores on
a few examples is mostly luck.
"""

import math
from collections.abc import Sequence

import numpy as np

from search.racing import Incumbent, incumbent_of
from search.schedulers.multi_objective import first_layer
from search.schedulers.scheduler import Result, RungRule, Standing

# Half the width of a cell in doublings of the length.
CELL = 1.0
# Candidates in training are judged this many rungs before its end.
_RUNGS_THAT_TELL = 2


class _Front:
    """What is known of the candidates that passed a rung, and who of them raises its front."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}
        self._members: tuple[Incumbent, ...] | None = None

    def add(self, candidate: str, bits: int, low: float) -> None:
        """Take in what is known of a candidate now, in place of what was known before."""
        self._known[candidate] = bits, low
        if self._members is None:
            return
        best = incumbent_of(self._members, bits)
        was_there = any(member.candidate == candidate for member in self._members)
        if was_there or best is None or low > best.score:
            self._members = None

    def members(self) -> tuple[Incumbent, ...]:
        """Return the front by increasing length; of equals the first."""
        if self._members is None:
            names = list(self._known)
            numbers = np.array(list(self._known.values()))
            order = np.lexsort((-numbers[:, 1], numbers[:, 0]))
            rising = order[first_layer(numbers[order, 1])]
            self._members = tuple(Incumbent(names[i], *self._known[names[i]]) for i in rising)
        return self._members


class BitsAware(RungRule):
    """See the module's text.

    Args:
        num_rungs: length of the ladder.
        eta: one in `eta` goes on where places are limited.
        sizes: number of examples of each rung.
    """

    races = True

    def __init__(self, *, num_rungs: int, eta: int, sizes: Sequence[int]) -> None:
        super().__init__(num_rungs=num_rungs, eta=eta)
        assert len(sizes) == num_rungs
        self._sizes = tuple(sizes)
        self._fronts: dict[tuple[str, int, int], _Front] = {}
        # From which rung on no more training changes a candidate.
        self._trained_at: dict[str, int] = {}

    def incumbents(self, model: str, rung: int, *, left: int) -> tuple[Incumbent, ...]:
        """Return whom a candidate has to beat at `rung`, by increasing length.

        Args:
            model: its base model.
            rung: index of the rung.
            left: rungs until no more training changes it.
        """
        front = self._fronts.get((model, rung, left))
        return front.members() if front else ()

    def _group(self, result: Result) -> tuple[str, int, int]:
        return result.model, result.rung, result.left

    def _judge(self, result: Result, standing: Standing) -> tuple[bool, str, tuple[str, ...]]:
        assert result.score is not None
        assert result.bits is not None
        gap, rivals = result.gap, () if result.against is None else (result.against,)
        if gap is None:
            return True, "nobody is as short", ()
        versus = f"{gap:+.3f} against the best of those that are not longer"
        if result.verdict == "loses" and not result.left:
            reason = f"it can't beat the best of those that are not longer ({gap:+.3f})"
            return False, reason, rivals
        if not result.left and gap <= 0:
            return False, f"it does not raise the front: {versus}", rivals
        if result.left > _RUNGS_THAT_TELL:
            return True, f"its training has hardly begun ({versus})", rivals
        # No bits at all count as one.
        log_bits = np.log2(np.maximum(standing.bits, 1))
        cell = np.abs(log_bits - log_bits[-1]) <= CELL
        places = max(1, int(cell.sum()) // self._eta)
        # Who beats it: no longer and at least as good. A shorter one is never in the way of it.
        beats = (standing.bits <= result.bits) & (standing.scores >= result.score) & cell
        ahead = int(beats[:-1].sum())
        reason = (
            f"{versus}, beaten by {ahead} of {int(cell.sum())} at its length, fewer than {places} "
            "may beat it"
        )
        return ahead < places, reason, rivals

    def note_finished(self, result: Result) -> None:
        """Make it an incumbent at the last rung, where alone it was scored."""
        assert result.score is not None
        assert result.bits is not None
        key = (result.model, self._num_rungs - 1, 0)
        low = self._low(result)
        self._fronts.setdefault(key, _Front()).add(result.candidate, result.bits, low)

    def _low(self, result: Result) -> float:
        """Return the lower end of what is known of a score: it less one standard error at most."""
        assert result.score is not None
        return result.score - math.sqrt(0.25 / self._sizes[result.rung])

    def _passed(self, result: Result) -> None:
        """Make the candidate an incumbent at this rung, and at those below by what is known now."""
        assert result.bits is not None
        low = self._low(result)
        trained_at = self._trained_at.setdefault(result.candidate, result.rung + result.left)
        for rung in range(result.rung + 1):
            key = (result.model, rung, max(0, trained_at - rung))
            self._fronts.setdefault(key, _Front()).add(result.candidate, result.bits, low)
