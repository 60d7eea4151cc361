"""Problems of MATH, and a task of them."""

from pathlib import Path
from typing import Any

from kilobit.evaluators.tasks.published.math import MathTask, load_math
from kilobit.search.task import Task
from tests.support.tasks.records import write_jsonl


def task_from(folder: Path, train: list[Any], sealed: list[Any], **changes: Any) -> Task:
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "test.jsonl", sealed)
    files = {"train": {"path": "train.jsonl"}, "sealed": {"path": "test.jsonl"}}
    return load_math(MathTask.model_validate({"kind": "math", **files, **changes}), folder)


def problem(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "problem": f"What is {number} halves?",
        "level": f"Level {number % 5 + 1}",
        "type": "Algebra",
        "solution": f"We divide.\n\nSo it is $\\boxed{{\\frac{{{number}}}{{2}}}}$.",
        **changes,
    }
