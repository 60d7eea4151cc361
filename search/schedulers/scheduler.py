"""The contract of schedulers: results of rungs in, decisions out, the same for the same order.

No clock, no random numbers, no files, no global state. A candidate without a score (failed, NaN)
is stopped and compared with none. A candidate is compared only with those of its base model.
"""

import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from kilobit.search.schedulers.racing import Incumbent, Verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Action = Literal["promote", "stop", "finish"]


@dataclass(frozen=True)
class Result:
    """The result of a candidate at a rung.

    Attributes:
        candidate: its id.
        model: the base model that it adapts.
        rung: index of the rung.
        score: on the examples that it was scored on, None if it failed.
        bits: its length, None if it failed.
        verdict: how its race ended, None if it is open or there was none.
        against: the incumbent that it raced with.
        gap: its mean score minus the incumbent's on the same examples.
        left: rungs until no more training changes it; 0 for a prompt or a trained adapter.
        model_free: its program runs without the model, so scoring it to the end costs nothing.
    """

    candidate: str
    model: str
    rung: int
    score: float | None
    bits: int | None
    verdict: Verdict | None = None
    against: str | None = None
    gap: float | None = None
    left: int = 0
    model_free: bool = False


@dataclass(frozen=True)
class Decision:
    """The decision on a candidate after a rung, with its reason.

    Attributes:
        candidate: its id.
        rung: index of the rung.
        action: the decision.
        reason: the reason in words.
        compared_with: ids of only the rivals that determined the decision.
        later: a promoted candidate goes on only when nothing else is left to try.
    """

    candidate: str
    rung: int
    action: Action
    reason: str
    compared_with: tuple[str, ...] = ()
    later: bool = False


class Scheduler(Protocol):
    """Interface of a scheduler: decide whether a candidate is promoted, stopped or finished.

    Attributes:
        first_rung: where a candidate begins.
        races: whether candidates race against an incumbent within a rung.
    """

    first_rung: int
    races: bool

    def report(self, result: Result) -> Decision:
        """Record a result and return the decision on its candidate.

        A repeated report changes nothing and gets the first answer.
        """
        ...

    def decided(self, candidate: str, rung: int) -> Decision | None:
        """Return the decision on a candidate at a rung, None if there is none yet."""
        ...

    def replay(self, result: Result, decision: Decision) -> None:
        """Record a result that was decided before; the recorded decision stands."""
        ...

    def note_finished(self, result: Result) -> None:
        """Record a program that was made at the last rung and needs no decision."""
        ...

    def incumbents(self, model: str, rung: int, *, left: int) -> tuple[Incumbent, ...]:
        """Return the incumbents that a candidate has to beat at a rung, by increasing length.

        Args:
            model: its base model.
            rung: index of the rung.
            left: rungs until no more training changes the candidate.
        """
        ...


@dataclass
class RungResults:
    """The results of one base model at one rung, in the order of their reports."""

    names: list[str] = field(default_factory=list)
    _scores: "array[float]" = field(default_factory=lambda: array("d"))
    _bits: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, candidate: str, score: float, bits: int) -> None:
        """Append a result."""
        self.names.append(candidate)
        self._scores.append(score)
        self._bits.append(bits)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def scores(self) -> "npt.NDArray[np.float64]":
        """Return the scores, shape [results]."""
        import numpy as np

        return np.array(self._scores)

    @property
    def bits(self) -> "npt.NDArray[np.float64]":
        """Return the lengths in bits, shape [results]."""
        import numpy as np

        return np.array(self._bits)


class RungRule:
    """Base class of schedulers that decide rung by rung; a subclass judges each result.

    Args:
        num_rungs: number of rungs of the ladder; the last rung promotes no candidate.
        eta: one in `eta` is promoted.
    """

    first_rung = 0
    races = False

    def __init__(self, *, num_rungs: int, eta: int) -> None:
        assert num_rungs >= 1
        assert eta >= 2
        self._num_rungs, self._eta = num_rungs, eta
        self._results: dict[tuple[str, int, int], RungResults] = {}
        self._decisions: dict[tuple[str, int], Decision] = {}

    def report(self, result: Result) -> Decision:
        """Record a result and return the decision on its candidate."""
        assert 0 <= result.rung < self._num_rungs
        key = (result.candidate, result.rung)
        if key not in self._decisions:
            self._decisions[key] = self._decide(result)
        return self._decisions[key]

    def decided(self, candidate: str, rung: int) -> Decision | None:
        """Return the decision on a candidate at a rung."""
        return self._decisions.get((candidate, rung))

    def incumbents(self, model: str, rung: int, *, left: int) -> tuple[Incumbent, ...]:
        """Return no incumbents; this scheduler does not race."""
        return ()

    def replay(self, result: Result, decision: Decision) -> None:
        """Record a result that was decided before."""
        self._decisions[result.candidate, result.rung] = decision
        if self._record(result) is not None and decision.action != "stop":
            self._passed(result)

    def note_finished(self, result: Result) -> None:
        """Ignore the program; this scheduler compares it with none."""

    def _decide(self, result: Result) -> Decision:
        results = self._record(result)
        if results is None:
            return Decision(result.candidate, result.rung, "stop", "it has no score")
        rivals: tuple[str, ...] = () if result.against is None else (result.against,)
        action: Action = "promote"
        later = False
        if result.rung == self._num_rungs - 1:
            action, reason = "finish", "it completed the last rung"
            if result.verdict == "loses":
                action, reason = "stop", "it lost its race at the last rung"
        elif result.model_free:
            reason = "it runs without the model"
        else:
            goes_on, reason, rivals = self._judge(result, results)
            action = "promote" if goes_on else "stop"
            why = self._why_later(result) if goes_on else ""
            if why:
                later, reason = True, f"{reason}; {why}"
        if action != "stop":
            self._passed(result)
        return Decision(result.candidate, result.rung, action, reason, rivals, later)

    def _record(self, result: Result) -> RungResults | None:
        """Add a result to its group and return the group, None if the result has no score.

        Programs without the model are in no group, so they change no rank.
        """
        score, bits = result.score, result.bits
        if score is None or bits is None or math.isnan(score):
            return None
        results = self._results.setdefault(self._group(result), RungResults())
        if not result.model_free:
            results.add(result.candidate, score, bits)
        return results

    def _group(self, result: Result) -> tuple[str, int, int]:
        """Return the key of the group it is compared with: here all of its model at its rung."""
        return result.model, result.rung, 0

    def _why_later(self, result: Result) -> str:
        """Return why a promoted candidate goes to the back of the queue, empty if it does not."""
        return ""

    def _passed(self, result: Result) -> None:
        """Record a candidate that was promoted or completed the last rung; here do nothing."""

    def _judge(self, result: Result, results: RungResults) -> tuple[bool, str, tuple[str, ...]]:
        """Return whether the newest result is promoted, the reason and the deciding rivals."""
        return True, "every candidate is promoted", ()
