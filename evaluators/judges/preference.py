"""Pairwise preference: two answers to each prompt, a judge, and wins, ties and losses of the first.

Every prompt is judged twice, once with each answer shown first. An answer wins only if both
verdicts prefer it; two ties, a tie and a preference, or two contradicting verdicts are a tie. So a
judge that decides by position alone makes every prompt a tie (half a point each, 50 %), and the
summary warns of it. Equal answers are a tie without asking the judge.

A prompt that could not be judged, in one order or both, is a row with the reason. It is not a tie
and counts in no share.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal["win", "tie", "loss"]
Position = Literal["first", "second", "tie"]

_CHANCE_OF_A_FALSE_WARNING = 0.05


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; wins are counted for `one`, the first program's answer."""

    id: str
    input: str
    one: str
    two: str


@dataclass(frozen=True)
class Question:
    """A question to a judge: a prompt and two answers in the order in which they are shown."""

    input: str
    first: str
    second: str


@dataclass(frozen=True)
class Verdict:
    """The position of the preferred answer, or None with a reason if there is no verdict."""

    position: Position | None
    reason: str | None = None


def tell_nobody() -> None:
    """Do nothing: the default callback after a verdict."""


class Judge(Protocol):
    """A judge that prefers one of two answers: a model, or verdicts in a file."""

    def verdicts(
        self, questions: Sequence[Question], on_each: Callable[[], None] = tell_nobody
    ) -> list[Verdict]:
        """Return a verdict for each question, in order; call `on_each` after each.

        Raises:
            OSError: if no question can be judged: the endpoint refuses the key or does not answer.
        """
        ...


@dataclass(frozen=True)
class Judged:
    """A prompt that was judged.

    Attributes:
        id: the prompt's id.
        outcome: the first program's outcome; None, with a reason, if it could not be judged.
        one_first: the verdict with the first program's answer shown first; None if there is none.
        two_first: the verdict in the other order.
        reason: why there is no outcome.
    """

    id: str
    outcome: Outcome | None
    one_first: Position | None = None
    two_first: Position | None = None
    reason: str | None = None


def num_questions(pairs: Sequence[Pair]) -> int:
    """Return the number of verdicts that `judge_pairs` requests: none for equal answers."""
    return 2 * sum(pair.one != pair.two for pair in pairs)


def judge_pairs(
    pairs: Sequence[Pair], judge: Judge, on_each: Callable[[], None] = tell_nobody
) -> list[Judged]:
    """Judge each pair in both orders and combine the verdicts; call `on_each` after each verdict.

    Raises:
        OSError: from the judge, if it can't judge any question.
    """
    asked = [pair for pair in pairs if pair.one != pair.two]
    questions = [Question(pair.input, pair.one, pair.two) for pair in asked]
    questions += [Question(pair.input, pair.two, pair.one) for pair in asked]
    verdicts = judge.verdicts(questions, on_each)
    assert len(verdicts) == len(questions)
    half = len(asked)
    found = {
        pair.id: _combine(pair.id, one_first, two_first)
        for pair, one_first, two_first in zip(asked, verdicts[:half], verdicts[half:], strict=True)
    }
    return [found.get(pair.id, Judged(pair.id, "tie")) for pair in pairs]


def _combine(name: str, one_first: Verdict, two_first: Verdict) -> Judged:
    positions = (one_first.position, two_first.position)
    if None in positions:
        return Judged(name, None, *positions, one_first.reason or two_first.reason)
    outcomes: dict[tuple[Position | None, Position | None], Outcome] = {
        ("first", "second"): "win",
        ("second", "first"): "loss",
    }
    return Judged(name, outcomes.get(positions, "tie"), *positions)


@dataclass(frozen=True)
class Summary:
    """Counts of a judge's verdicts on two programs.

    Attributes:
        wins, ties, losses: the first program's, over the prompts that were judged.
        failed: prompts without an outcome.
        both_first: prompts on which both verdicts prefer the answer that was shown first.
        both_second: prompts on which both prefer the answer that was shown second.
        num_twice: prompts that were judged in both orders.
    """

    wins: int
    ties: int
    losses: int
    failed: int
    both_first: int
    both_second: int
    num_twice: int

    @property
    def judged(self) -> int:
        """Return the number of prompts with an outcome."""
        return self.wins + self.ties + self.losses

    @property
    def flipped(self) -> float | None:
        """Return the share of prompts on which the verdict follows the position, not the answer."""
        by_position = self.both_first + self.both_second
        return by_position / self.num_twice if self.num_twice else None

    @property
    def warning(self) -> str | None:
        """Return a warning about a judge that prefers a position, or None.

        A judge that is merely unsure favours both positions equally often when it contradicts
        itself (two-sided binomial test at 0.05). A judge that contradicts itself on every prompt
        gets the warning as well.
        """
        by_position = self.both_first + self.both_second
        if not by_position:
            return None
        from scipy.stats import binomtest

        # scipy's types are loose; the p-value is a float.
        chance = float(binomtest(self.both_first, by_position).pvalue)
        if chance >= _CHANCE_OF_A_FALSE_WARNING and by_position < self.num_twice:
            return None
        position, often = max(("first", self.both_first), ("second", self.both_second), key=_number)
        return (
            f"position bias: on {by_position} of {self.num_twice} prompts "
            f"({100 * by_position / self.num_twice:.0f} %) the judge contradicted itself when the "
            f"answers were swapped, and on {often} of these it preferred the answer that was shown "
            f"{position} both times; they count as ties"
        )


def _number(item: tuple[str, int]) -> int:
    return item[1]


def summarise(rows: Sequence[Judged]) -> Summary:
    """Return the counts over judged prompts."""
    outcomes = Counter(row.outcome for row in rows)
    twice = [
        (row.one_first, row.two_first)
        for row in rows
        if row.one_first is not None and row.two_first is not None
    ]
    return Summary(
        outcomes["win"],
        outcomes["tie"],
        outcomes["loss"],
        outcomes[None],
        twice.count(("first", "first")),
        twice.count(("second", "second")),
        len(twice),
    )
