"""Contract tests for metrics, tasks and evaluators of other packages.

Each takes an object and raises `AssertionError`, naming what is wrong. Call them in tests of your
own; they load no model.
"""

import math
from collections.abc import Sequence

from kilobit.evaluators.battery.battery import Evaluator
from kilobit.search.task import ChoicePart, Example, Metric, Task, offered

__all__ = ["check_evaluator", "check_metric", "check_task"]
_ODD = ("", " ", "\0", "\n\n", "1e999", "{input}", "\U0001f600" * 300, "a" * 10_000)


def check_metric(metric: Metric, examples: Sequence[Example]) -> None:
    """Check a metric on examples, four or more, whose targets it should like better than nothing.

    Raises:
        AssertionError: naming what is wrong.
    """
    assert metric.name, "a metric needs a name"
    assert len(examples) >= 4, "give four examples or more"
    targets = [example.target for example in examples]
    for text in (*_ODD, *targets):
        score = metric.per_example(text, examples[0])
        assert score is None or 0 <= score <= 1, f"{text[:20]!r} scores {score}, not in [0, 1]"
        assert metric.per_example(text, examples[0]) == score, f"{text[:20]!r} scores differently"
    for text in ("", " "):
        assert not metric.per_example(text, examples[0]), "an empty output has to score 0"
    scores = metric.scores(targets, examples)
    assert list(scores) == [
        metric.per_example(text, example) for text, example in zip(targets, examples, strict=True)
    ], "`scores` and `per_example` differ"
    right, wrong = metric.corpus(targets, examples), metric.corpus([""] * len(targets), examples)
    assert 0 <= wrong.score < right.score <= 1, "targets have to score above empty outputs"
    again = metric.corpus(targets[::-1], examples[::-1])
    assert math.isclose(again.score, right.score), "the order of examples changes the score"
    for found in (right, wrong):
        lower = 0.0 if found.lower is None else found.lower
        upper = 1.0 if found.upper is None else found.upper
        assert lower <= found.score <= upper, "the interval does not hold its score"
    assert len(metric.contributions(targets, examples)) == len(targets), "one for each output"
    both = metric.bounds([targets, [""] * len(targets)], examples, 2)
    for bound, found in zip(both, (right, wrong), strict=True):
        assert math.isclose(bound.score, found.score), "`bounds` and `corpus` differ"
    assert all(one.lower <= one.score <= one.upper for one in both), "a bound excludes its score"


def check_task(task: Task) -> None:
    """Check a task: templates, splits and its metric.

    Raises:
        AssertionError: naming what is wrong.
    """
    assert task.name, "a task needs a name"
    assert task.question.count("{input}") == 1, "`question` has to contain {input} once"
    assert task.answer.count("{target}") == 1, "`answer` has to contain {target} once"
    assert all(task.stop), "a stop string is empty"
    assert task.max_new_tokens >= 1, "`max_new_tokens` has to be 1 or more"
    seen: dict[str, str] = {}
    for name, examples in vars(task.splits).items():
        assert examples, f"the {name} split is empty"
        ids = [example.id for example in examples]
        assert len(set(ids)) == len(ids), f"two examples of the {name} split have one id"
        for example in examples:
            where = f"{example.question[:40]!r} of the {name} split"
            assert example.question.strip(), f"{where}: the input is empty"
            assert example.target.strip(), f"{where}: the target is empty"
            assert seen.setdefault(example.question, name) == name, f"{where}: in another one too"
            offers = task.choice is not None and name != "train"
            assert bool(offered(example.input)[1]) == offers, f"{where}: offered answers"
    check_metric(task.metric, task.splits.search)


class _Canned:
    """A model that says the same to everything."""

    def __init__(self, text: str) -> None:
        self._text = text

    def answer(
        self, questions: Sequence[str], max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        assert max_new_tokens >= 1, "an answer needs room for a token"
        return [self._text for _ in questions]

    def choose(self, inputs: Sequence[str], choice: ChoicePart) -> list[str]:
        return [offered(text)[1][0] for text in inputs]

    def bits(self, texts: Sequence[str]) -> list[float]:
        return [8.0 * len(text.encode()) for text in texts]


def check_evaluator(evaluator: Evaluator) -> None:
    """Check an evaluator of a battery: every model is asked the same, whatever it answers.

    Raises:
        AssertionError: naming what is wrong.
    """
    assert evaluator.name, "an evaluator needs a name"
    assert evaluator.better in ("higher", "lower"), "`better` has to be higher or lower"
    asked = []
    for text in _ODD:
        rows = evaluator.evaluate(_Canned(text))
        assert rows, "there are no rows"
        names = [(row.item, row.example) for row in rows]
        assert len(set(names)) == len(names), "an item has two rows for one example"
        assert all(isinstance(row.value, float) for row in rows), "a value is no float"
        assert not any(math.isinf(row.value) for row in rows), "a value is infinite"
        asked.append(sorted(names))
    assert all(names == asked[0] for names in asked), "models were asked different examples"
