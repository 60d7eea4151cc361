import json
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.tasks.published.math import MathTask, last_boxed, load_math
from kilobit.search.programs.postprocess import postprocess
from tests.support.tasks.math_cases import problem, task_from
from tests.support.tasks.records import write_jsonl

# How a program may take what a model boxed; examples/math_smollm3.yaml has it too.
BOXED = r"find:(?s).*\\boxed\{(.*)\}"


def test_the_boxed_answer_is_the_gold_one(tmp_path: Path) -> None:
    data = [problem(i) for i in range(50)], [problem(i) for i in range(50, 60)]
    task = task_from(tmp_path, *data)
    example = next(e for e in task.splits.sealed if "51" in e.input)
    assert example.target == "\\frac{51}{2}"
    assert dict(example.extra) == {"gold": "\\frac{51}{2}", "level": "2", "subject": "Algebra"}
    assert task.columns("25.5\n\nProblem: next", example) == '{"level": "2", "subject": "Algebra"}'
    assert task.metric.per_example("25.5", example) == 1.0
    for split in (task.splits.train, task.splits.search, task.splits.sealed):
        assert all(task.metric.per_example(e.gold, e) == 1.0 for e in split)
    shown = task_from(tmp_path, *data, shown="solution")
    example = next(e for e in shown.splits.sealed if "51" in e.input)
    assert example.target == "We divide.\nSo it is $\\boxed{\\frac{51}{2}}$."
    assert shown.metric.per_example(example.target, example) == 0.0
    assert shown.metric.per_example(postprocess(example.target, [BOXED]), example) == 1.0


def test_a_folder_of_problems_and_the_later_field_names(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / "train" / "algebra").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "train" / "algebra" / f"{number}.json"
        path.write_text(json.dumps(problem(number)))
    later = problem(40, level=3, subject="Geometry", answer="20", unique_id="x")
    del later["type"]
    write_jsonl(tmp_path / "test.jsonl", [later])
    files = {"train": {"path": "train"}, "sealed": {"path": "test.jsonl"}}
    task = load_math(MathTask.model_validate({"kind": "math", **files}), tmp_path)
    assert len(task.splits.train) + len(task.splits.search) == 30
    extra = dict(task.splits.sealed[0].extra)
    assert extra == {"gold": "\\frac{40}{2}", "level": "3", "subject": "Geometry"}


@pytest.mark.parametrize(
    ("solution", "boxed"),
    [
        ("\\boxed{5}", "5"),
        ("\\boxed{4} or \\boxed{ 5 }.", "5"),
        ("\\fbox{5}", "5"),
        ("$\\boxed 5$ is it", "5"),
        ("\\boxed{\\{1,\\frac{1}{2}\\}} }", "\\{1,\\frac{1}{2}\\}"),
        ("\\boxed{5", None),
        ("5", None),
        ("\\boxed", None),
        ("\\boxedx", None),
    ],
)
def test_the_last_box(solution: str, boxed: str | None) -> None:
    assert last_boxed(solution) == boxed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solution": "It is 5."}, r"field 'solution' has no answer in \\boxed{}"),
        ({"solution": "\\boxed{ }"}, r"field 'solution' has no answer in \\boxed{}"),
        ({"problem": ""}, "field 'problem' is empty"),
        ({"level": None}, "field 'level' must be a text or a number, found None"),
        ({"type": 3}, "field 'type' must be a text, found 3"),
    ],
)
def test_a_malformed_record_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    lines = [problem(i) for i in range(30)]
    lines[16] |= change
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 17: {message}"):
        task_from(tmp_path, lines, [problem(40)])
