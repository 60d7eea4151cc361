"""Pairwise preference: two answers to each prompt, a judge, and wins, ties and losses of the first.

Every prompt is judged twice, once with each answer shown first. Only if both verdicts prefer the
same answer does it win; two ties, a tie and a preference, or two verdicts that contradict each
other are a tie. So a judge that looks at the place alone makes every prompt a tie (half a point
each, 50 %), and the summary warns of it. Answers that are equal are a tie, and nobody is asked.

A prompt that could not be judged, in one order or both, is a row with the reason. It is no tie, and
counts in no share.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from scipy.stats import binomtest

Outcome = Literal["win", "tie", "loss"]
Place = Literal["first", "second", "tie"]

_CHANCE_OF_A_FALSE_WARNING = 0.05


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; `one` is the first program's, whose wins are counted."""

    id: str
    input: str
    one: str
    two: str


@dataclass(frozen=True)
class Question:
    """What a judge is asked: a prompt and two answers in the order in which they are shown."""

    input: str
    first: str
    second: str


@dataclass(frozen=True)
class Verdict:
    """Which answer a judge prefers, by its place; None with a reason where there is no verdict."""

    place: Place | None
    reason: str | None = None


def tell_nobody() -> None:
    """Say nothing about a verdict that was given."""


class Judge(Protocol):
    """Whoever prefers one of two answers."""

    def verdicts(
        self, questions: Sequence[Question], on_each: Callable[[], None] = tell_nobody
    ) -> list[Verdict]:
        """Return a verdict for each question, in their order; `on_each` is called after each.

        Raises:
            OSError: if nothing can be judged at all: a key that is refused, an endpoint that does
                not answer.
        """
        ...


@dataclass(frozen=True)
class Judged:
    """A prompt that was judged.

    Attributes:
        id: of the prompt.
        outcome: of the first program; None where there is none, with the reason.
        one_first: the verdict with the first program's answer shown first; None if not asked.
        two_first: the verdict in the other order.
        reason: why there is no outcome.
    """

    id: str
    outcome: Outcome | None
    one_first: Place | None = None
    two_first: Place | None = None
    reason: str | None = None


def num_questions(pairs: Sequence[Pair]) -> int:
    """Return how many verdicts `judge_pairs` asks for: none where both answers are the same."""
    return 2 * sum(pair.one != pair.two for pair in pairs)


def judge_pairs(
    pairs: Sequence[Pair], judge: Judge, on_each: Callable[[], None] = tell_nobody
) -> list[Judged]:
    """Return what `judge` says of each pair, in both orders; `on_each` is called after a verdict.

    Raises:
        OSError: from the judge, if it can't judge at all.
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
    places = (one_first.place, two_first.place)
    if None in places:
        return Judged(name, None, *places, one_first.reason or two_first.reason)
    outcomes: dict[tuple[Place | None, Place | None], Outcome] = {
        ("first", "second"): "win",
        ("second", "first"): "loss",
    }
    return Judged(name, outcomes.get(places, "tie"), *places)


@dataclass(frozen=True)
class Summary:
    """What a judge said of two programs.

    Attributes:
        wins, ties, losses: of the first program, over the prompts that were judged.
        failed: prompts without a verdict.
        both_first: prompts where both verdicts prefer the answer that was shown first.
        both_second: prompts where both prefer the answer that was shown second.
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
        """Return how many prompts have a verdict."""
        return self.wins + self.ties + self.losses

    @property
    def flipped(self) -> float | None:
        """Return the share of prompts on which the verdict follows the place, not the answer."""
        by_place = self.both_first + self.both_second
        return by_place / self.num_twice if self.num_twice else None

    @property
    def warning(self) -> str | None:
        """Return what to say of a judge that prefers a place, None if nothing.

        A judge that is only unsure contradicts itself in favour of either place alike (two-sided
        binomial test at 0.05). A judge that does nothing but contradict itself is named as well.
        """
        by_place = self.both_first + self.both_second
        if not by_place:
            return None
        # A float and an int, also where scipy says otherwise.
        chance = float(binomtest(self.both_first, by_place).pvalue)
        if chance >= _CHANCE_OF_A_FALSE_WARNING and by_place < self.num_twice:
            return None
        place, often = max(("first", self.both_first), ("second", self.both_second), key=_number)
        return (
            f"position bias: on {by_place} of {self.num_twice} prompts "
            f"({100 * by_place / self.num_twice:.0f} %) the judge contradicted itself when the "
            f"answers were swapped, and on {often} of these it preferred the answer that was shown "
            f"{place} both times; they count as ties"
        )


def _number(item: tuple[str, int]) -> int:
    return item[1]


def summarise(rows: Sequence[Judged]) -> Summary:
    """Return the counts of prompts that were judged."""
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
