"""A model whose answers are given."""

from collections.abc import Callable, Sequence

from kilobit.evaluators.battery.battery import (
    Row,
)


def mean(rows: Sequence[Row], item: str | None = None) -> float:
    values = [row.value for row in rows if item in (None, row.item)]
    return sum(values) / len(values)


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
