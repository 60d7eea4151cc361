"""Evaluators of a scorecard, besides the searched task, and the side effects that they show.

An evaluator is one class with a name and `evaluate(model) -> rows`. The model is a base model with
or without a program on it; an evaluator cannot tell which. The rows of both are compared example by
example (`kilobit.evaluators.statistics.intervals`), so an evaluator has to ask every model the same
examples under the same ids. The interface demands nothing else: an environment in the manner of
MACHIAVELLI (arXiv 2304.03279), where a model plays and rows record its gains and the rules it
broke, fits as well as a list of questions; `kilobit.evaluators.battery.games` is a small one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

from kilobit.evaluators.statistics.paired import LEVEL, holm, paired_change
from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature
from kilobit.search.front.points import FrontPoint
from kilobit.search.task import ChoicePart, Task

Better = Literal["higher", "lower"]
Verdict = Literal["helps", "harms"]
_OF_A_POINT = ("run", "task", "model", "regime", "candidate", "family", "program", "program_bits",
               "payload_bits", "net_bits", "own_score", "verified", "certified")  # fmt: skip
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


@dataclass(frozen=True)
class SideEffect:
    """One item of one program, or a part of an item: a line of scorecard.parquet.

    Attributes:
        point: the program, with its score on its own task.
        item: name of the item.
        tag: `name=value` of the part, None for the whole item.
        better: whether higher or lower values are better.
        base: mean with the bare base model; `value` is that with the program, `change` the
            difference.
        lower: lower end of the 95 % interval of the change, for this comparison alone.
        p: p-value of the change, adjusted for all whole items of all programs; None for parts, and
            where too few examples differ for a verdict.
        verdict: direction of a change that exceeds noise, None if it does not.
        error: reason why there is no value.
    """

    point: FrontPoint
    item: str
    tag: str | None = None
    better: Better = "higher"
    num_examples: int | None = None
    base: float | None = None
    value: float | None = None
    change: float | None = None
    lower: float | None = None
    upper: float | None = None
    p: float | None = None
    verdict: Verdict | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this line, which calls the score of the point `own_score`."""
        own = asdict(self)
        point = own.pop("point")
        point["own_score"] = point["score"]
        return {name: point[name] for name in _OF_A_POINT} | own


def failed_line(point: FrontPoint, item: str, error: str) -> SideEffect:
    """Return the line of an item that failed."""
    return SideEffect(point, item, error=error)


def compare(
    point: FrontPoint, better: Better, rows: Sequence[Row], base: Sequence[Row]
) -> list[SideEffect]:
    """Return the lines of one evaluator, whole items before their parts.

    Args:
        point: the program.
        better: whether higher or lower values are better.
        rows: rows with the program.
        base: rows with the bare base model, on the same examples.

    Raises:
        ValueError: if the examples are not the same.
    """
    lines = []
    for item, tag, part, bare in _parts(rows, base):
        found = paired_change([row.value for row in part], [row.value for row in bare])
        # Parts are described, not tested.
        own: dict[str, Any] = {**vars(found), "p": None if tag else found.p}
        lines.append(SideEffect(point, item, tag=tag, better=better, **own))
    return lines


def _parts(
    rows: Sequence[Row], base: Sequence[Row]
) -> list[tuple[str, str | None, list[Row], list[Row]]]:
    bare: Mapping[tuple[str, str], Row] = {(row.item, row.example): row for row in base}
    asked = [(row.item, row.example) for row in rows]
    if len(set(asked)) != len(asked) or set(asked) != set(bare):
        raise ValueError("an evaluator gave the program and the bare model different examples")
    parts: dict[tuple[str, str | None], list[Row]] = {}
    rows = [r for r in rows if not math.isnan(r.value + bare[r.item, r.example].value)]
    for row in rows:
        parts.setdefault((row.item, None), []).append(row)
    for row in rows:
        for name, value in row.tags.items():
            parts.setdefault((row.item, f"{name}={value}"), []).append(row)
    return [
        (item, tag, part, [bare[row.item, row.example] for row in part])
        for (item, tag), part in parts.items()
    ]


def judge_lines(lines: Sequence[SideEffect]) -> list[SideEffect]:
    """Return the lines with verdicts, their p-values adjusted for all lines together."""
    tested = [line.p for line in lines if line.p is not None]
    adjusted = iter(holm(tested))
    return [line if line.p is None else _judged(line, next(adjusted)) for line in lines]


def _judged(line: SideEffect, p: float) -> SideEffect:
    verdict: Verdict | None = None
    if p <= LEVEL and line.change:
        verdict = "helps" if (line.change > 0) == (line.better == "higher") else "harms"
    return replace(line, p=p, verdict=verdict)


def trades(
    lines: Sequence[SideEffect],
) -> list[tuple[SideEffect, list[SideEffect], list[SideEffect]]]:
    """Return the programs that harm an item: one line each, with the lines it helps and harms."""
    by_program: dict[tuple[str, str], list[SideEffect]] = {}
    for line in lines:
        if line.verdict is not None:
            by_program.setdefault((line.point.model, line.point.candidate), []).append(line)
    found = []
    for each in by_program.values():
        harms = [line for line in each if line.verdict == "harms"]
        if harms:
            found.append((each[0], [line for line in each if line.verdict == "helps"], harms))
    return found
