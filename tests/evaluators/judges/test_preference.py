"""Verdicts in both orders, files of answers and verdicts, and how a judge's words are read."""

from collections.abc import Callable, Sequence

import pytest

from kilobit.evaluators.judges.preference import (
    Pair,
    Position,
    Question,
    Verdict,
    judge_pairs,
    num_questions,
    summarise,
    tell_nobody,
)
from kilobit.search.streams import stream


class By:
    """A judge that follows a rule."""

    def __init__(self, rule: Callable[[Question], Position | None]) -> None:
        self.rule, self.asked = rule, 0

    def verdicts(
        self, questions: Sequence[Question], on_each: Callable[[], None] = tell_nobody
    ) -> list[Verdict]:
        self.asked += len(questions)
        positions = []
        for question in questions:
            positions.append(self.rule(question))
            on_each()
        return [Verdict(p, None if p else "no idea") for p in positions]


def longer(question: Question) -> Position:
    if len(question.first) == len(question.second):
        return "tie"
    return "first" if len(question.first) > len(question.second) else "second"


PAIRS = [Pair(str(i), f"q{i}", "a" * (i % 5 + 1), "b" * (i % 3 + 1)) for i in range(30)]


def test_a_judge_of_the_answers_is_the_same_in_both_orders() -> None:
    rows = judge_pairs(PAIRS, By(longer))
    expected = {
        pair.id: "tie"
        if len(pair.one) == len(pair.two)
        else "win"
        if len(pair.one) > len(pair.two)
        else "loss"
        for pair in PAIRS
    }
    assert {row.id: row.outcome for row in rows} == expected
    summary = summarise(rows)
    assert summary.flipped == 0
    assert summary.warning is None
    assert summary.wins + summary.ties + summary.losses == summary.judged == 30


@pytest.mark.parametrize("position", ["first", "second"])
@pytest.mark.parametrize("number", [1, 3, 30])
def test_a_judge_of_the_place_makes_ties_and_is_named(position: Position, number: int) -> None:
    summary = summarise(judge_pairs(PAIRS[:number], By(lambda _: position)))
    assert (summary.wins, summary.ties, summary.losses) == (0, number, 0)
    assert summary.flipped == 1
    assert summary.warning is not None
    assert f"{number} of {number} prompts (100 %)" in summary.warning
    assert f"shown {position} both times" in summary.warning


def test_a_judge_that_is_only_unsure_is_not_named_but_its_flips_are_counted() -> None:
    draws = stream(0, "test", "unsure")
    summary = summarise(judge_pairs(PAIRS * 10, By(lambda _: draws.choice(["first", "second"]))))
    assert summary.flipped == pytest.approx(0.5, abs=0.1)
    assert summary.warning is None


@pytest.mark.parametrize(
    ("one_first", "two_first", "outcome"),
    [
        ("first", "second", "win"),
        ("second", "first", "loss"),
        ("first", "first", "tie"),
        ("second", "second", "tie"),
        ("tie", "tie", "tie"),
        ("first", "tie", "tie"),
        ("tie", "first", "tie"),
        (None, "first", None),
        ("first", None, None),
    ],
)
def test_only_two_verdicts_that_agree_prefer_an_answer(
    one_first: Position | None, two_first: Position | None, outcome: str | None
) -> None:
    judge = By(lambda q: one_first if q.first == "x" else two_first)
    (row,) = judge_pairs([Pair("1", "q", "x", "y")], judge)
    assert row.outcome == outcome
    assert row.reason == (None if outcome else "no idea")
    assert summarise([row]).failed == (outcome is None)


def test_equal_answers_are_a_tie_and_nobody_is_asked() -> None:
    judge = By(lambda _: None)
    rows = judge_pairs([Pair("1", "q", "same", "same")], judge)
    assert rows[0].outcome == "tie"
    assert judge.asked == 0
    assert summarise(rows).flipped is None


def test_each_verdict_is_told_of() -> None:
    told: list[int] = []
    pairs = [Pair("1", "q", "same", "same"), Pair("2", "q", "a", "b"), Pair("3", "q", "a", "c")]
    judge_pairs(pairs, By(lambda _: "first"), lambda: told.append(1))
    assert len(told) == num_questions(pairs) == 4
