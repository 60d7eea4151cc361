r"""MATH: competition problems with answers in `\boxed{}` (Hendrycks et al., arXiv 2103.03874).

A record has `problem`, `level`, `type` (or `subject`) and `solution`; the gold answer is the
content of the solution's last `\boxed{}`. An output scores 1 if the whole output is the same answer
(`kilobit.evaluators.metrics.math_equality`), else 0. No answer is searched for in an output:
extracting the content of a box is a step of the program and counts in its bits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kilobit.evaluators.metrics.math_equality import check_installed, same_answer
from kilobit.evaluators.metrics.metrics import MeanMetric
from kilobit.evaluators.tasks.published.splits import (
    BenchmarkTask,
    benchmark_task,
    divided,
    read_examples,
)
from kilobit.evaluators.tasks.sources import (
    Answer,
    LongestAnswer,
    Question,
    Records,
    Stop,
    TaskName,
    text_of,
)
from kilobit.search.task import Example, Task, make_example

_BOXES = ("\\boxed", "\\fbox")


class MathTask(BenchmarkTask):
    """Settings of MATH, from the hub or from files."""

    kind: Annotated[Literal["math"], Field(description="competition problems")]
    name: TaskName = "math"
    train: Annotated[Records, Field(description="records for training and for the search split")]
    search: Annotated[
        Records | None, Field(description="records of the search split; null: a share of `train`")
    ] = None
    sealed: Annotated[Records, Field(description="the published test set")]
    shown: Annotated[
        Literal["answer", "solution"],
        Field(description="target of demonstrations and training"),
    ] = "answer"
    question: Question = "Problem: {input}\nAnswer:"
    answer: Answer = " {target}\n\n"
    stop: Stop = ("\n\n", "\nProblem:")
    max_new_tokens: LongestAnswer = 512


class SameAnswer(MeanMetric):
    """Score 1 if the whole output is the same mathematical answer as the gold one, else 0."""

    name = "math"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(same_answer(example.gold, output))

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return the problem's level and subject."""
        return {name: example.extra[name] for name in ("level", "subject")}


def last_boxed(solution: str) -> str | None:
    r"""Return the content of the last `\boxed{}`, or None if there is none or it is not closed."""
    at = max(solution.rfind(box) for box in _BOXES)
    if at < 0:
        return None
    inside = solution[at:].partition("ox")[2].removeprefix("ed")
    if not inside.startswith("{"):
        # A few solutions write `\boxed 4`.
        words = inside.split("$")[0].split()
        return words[0] if inside[:1].isspace() and words else None
    depth = 0
    for position, char in enumerate(inside):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return inside[1:position].strip()
    return None


def math_example(record: Mapping[str, Any], where: str, shown: str) -> Example:
    """Return the example in a record.

    Raises:
        ValueError: naming the record, if a field is missing or the solution has no boxed answer.
    """
    problem, solution = text_of(record, "problem", where), text_of(record, "solution", where)
    subject = text_of(record, "type" if "type" in record else "subject", where)
    level = record.get("level")
    if isinstance(level, bool) or not isinstance(level, str | int):
        raise ValueError(f"{where}: field 'level' must be a text or a number, found {level!r:.60}")
    gold = last_boxed(solution)
    if not gold:
        raise ValueError(f"{where}: field 'solution' has no answer in \\boxed{{}}")
    extra = {
        "gold": gold,
        "level": str(level).removeprefix("Level ").strip(),
        "subject": subject.strip(),
    }
    # Drop empty lines, which would end an answer.
    lines = [line.rstrip() for line in solution.split("\n") if line.strip()]
    return make_example(problem, gold if shown == "answer" else "\n".join(lines), extra)


def load_math(config: MathTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid, or if math-verify is missing.
    """

    def read(source: Records) -> list[Example]:
        return read_examples(
            config, source, folder, lambda record, at: math_example(record, at, config.shown)
        )

    given = None if config.search is None else read(config.search)
    train, search = divided(config, read(config.train), given)
    sealed = read(config.sealed)
    check_installed()
    return benchmark_task(config, SameAnswer(), train, search, sealed)
