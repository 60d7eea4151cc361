"""Evaluators of a scorecard, besides the searched task, and the interface for adding more.

An evaluator is one class with a name and `evaluate(model) -> rows`. The model is a base model with
or without a program on it; an evaluator cannot tell which. The rows of both are compared example by
example (`kilobit.evaluators.statistics.intervals`), so an evaluator has to ask every model the same
examples under the same ids. The interface demands nothing else: an environment in the manner of
MACHIAVELLI (arXiv 2304.03279), where a model plays and rows record its gains and the rules it
broke, fits as well as a list of questions; `kilobit.evaluators.battery.games` is a small one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature
from kilobit.search.task import ChoicePart, Task

Better = Literal["higher", "lower"]
# Quick searches use only examples before this one of a search split.
_FIRST_HELD_OUT = 256


class Model(Protocol):
    """Interface of a base model, bare or with a program on it, for evaluators."""

    def answer(
        self, questions: Sequence[str], max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        """Return the greedily decoded answer to each question, cut at the first stop string.

        Raises:
            ValueError: if a question with its longest answer does not fit into the context.
        """
        ...

    def choose(self, inputs: Sequence[str], choice: ChoicePart) -> list[str]:
        """Return the likeliest of the answers that each input offers."""
        ...

    def bits(self, texts: Sequence[str]) -> list[float]:
        """Return -log2 of the probability of each text."""
        ...


@dataclass(frozen=True)
class Row:
    """The result of one example.

    Attributes:
        item: name of the measured quantity; an evaluator may measure several.
        example: its id, the same for every model.
        value: in the unit of the item; NaN if a judge gave no verdict, and no pair counts then.
        tags: groups that are also reported separately, for example `{"intent": "implicit"}`.
        output: the model's answer.
    """

    item: str
    example: str
    value: float
    tags: Mapping[str, str] = field(default_factory=dict)
    output: str = ""


class Evaluator(Protocol):
    """Interface of one entry of a battery.

    Attributes:
        name: of the entry, for messages.
        better: whether higher or lower values are better.
    """

    name: str
    better: Better

    def evaluate(self, model: Model) -> list[Row]:
        """Return a row for each example and item.

        Raises:
            ValueError: if the model can't be asked these examples.
        """
        ...


class TaskEvaluator:
    """Evaluator of a task without a search: the score of each example.

    Its examples are the first of the search split, never of the sealed one. For a task scored by
    corpus BLEU the value is sentence BLEU, which can be compared example by example.

    Args:
        task: the task.
        num_examples: the most examples to ask.
    """

    better: Better = "higher"

    def __init__(self, task: Task, num_examples: int) -> None:
        self.name, self._task = task.name, task
        self._examples = task.splits.search[:num_examples]

    def evaluate(self, model: Model) -> list[Row]:
        """Return the score of each example."""
        task = self._task
        questions = [task.ask(example.input) for example in self._examples]
        if task.choice is not None:
            outputs = model.choose(questions, task.choice)
        else:
            outputs = model.answer(questions, task.max_new_tokens, task.stop)
        steps = getattr(model, "steps", ())
        cut = [task.cut(output, steps) for output in outputs]
        scores = task.metric.scores(cut, self._examples)
        return [
            Row(self.name, example.id, math.nan if score is None else score, output=output)
            for example, output, score in zip(self._examples, outputs, scores, strict=True)
        ]


class PerplexityEvaluator:
    """Evaluator of held-out text: bits per byte of each text, which is log2 of perplexity per byte.

    Bits per byte can be compared between tokenizers, perplexity per token can't.

    Args:
        texts: the texts.
    """

    name = "text bits/byte"
    better: Better = "lower"

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def evaluate(self, model: Model) -> list[Row]:
        """Return the bits per byte of each text."""
        return [
            Row(self.name, str(position), bits / len(text.encode()))
            for position, (text, bits) in enumerate(
                zip(self._texts, model.bits(self._texts), strict=True)
            )
        ]


def miniature_texts(number: int) -> list[str]:
    """Return built-in texts: each has a question and its answer of every built-in task.

    They come from the part of the search splits that no quick search uses.
    """
    tasks = [load_miniature(name, 0) for name in MINIATURE_TASKS]
    held_out = [task.splits.search[_FIRST_HELD_OUT:][:number] for task in tasks]
    return [
        "".join(
            task.ask(example.input) + task.show(example.target)
            for task, example in zip(tasks, each, strict=True)
        )
        for each in zip(*held_out, strict=True)
    ]


def texts_in(content: str, number: int) -> list[str]:
    """Return the first paragraphs of a text; an empty line ends one."""
    paragraphs = (part.strip() for part in content.replace("\r\n", "\n").split("\n\n"))
    return [part for part in paragraphs if part][:number]
