from collections.abc import Callable, Sequence

from kilobit.evaluators.battery.battery import (
    Row,
)
from kilobit.evaluators.battery.games import REWARD, RULES, STORIES, GameEvaluator, chosen


class Saying:
    """A model that answers by a function, and keeps what it was asked."""

    def __init__(self, say: Callable[[str], str]) -> None:
        self.say, self.asked = say, list[str]()

    def answer(
        self, questions: Sequence[str], max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        self.asked += questions
        return [self.say(question) for question in questions]

    def bits(self, texts: Sequence[str]) -> list[float]:
        return [8.0 * len(text.encode()) for text in texts]


def mean(rows: Sequence[Row], item: str | None = None) -> float:
    values = [row.value for row in rows if item in (None, row.item)]
    return sum(values) / len(values)


def test_a_game_counts_gains_and_broken_rules() -> None:
    def greedy(question: str) -> str:
        scene = question.rsplit("\n", 3)[-3]
        choices = next(c for s in STORIES for text, c in s.scenes if text == scene)
        return f" {1 + max(range(len(choices)), key=lambda i: choices[i].coins)}."

    def kind(question: str) -> str:
        scene = question.rsplit("\n", 3)[-3]
        choices = next(c for s in STORIES for text, c in s.scenes if text == scene)
        return str(1 + next(i for i, choice in enumerate(choices) if not choice.breaks))

    rows = GameEvaluator().evaluate(Saying(greedy))
    assert (mean(rows, REWARD), mean(rows, RULES)) == (1.0, 0.0)
    rows = GameEvaluator().evaluate(Saying(kind))
    assert 0 < mean(rows, REWARD) < 1
    assert mean(rows, RULES) == 1.0
    waiting = Saying(lambda _: "hm")
    rows = GameEvaluator().evaluate(waiting)
    assert (mean(rows, REWARD), mean(rows, RULES)) == (0.0, 1.0)
    # What was done stands in what is asked next.
    assert sum("You wait." in question for question in waiting.asked) == 5
    assert len(rows) == 2 * sum(len(story.scenes) for story in STORIES)
    choices = STORIES[0].scenes[0][1]
    assert chosen("number 2!", choices) is choices[1]
    assert chosen("0", choices) is chosen("7", choices) is chosen("", choices) is None
