from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.tasks.published.conversations import InstructionsTask, load_instructions
from tests.support.tasks.records import write_jsonl


def test_conversations_are_a_task_with_a_named_metric(tmp_path: Path) -> None:
    talks = [{"conversations": [f"Say {i}", f"It is {i}."]} for i in range(50)]
    write_jsonl(tmp_path / "train.jsonl", talks[:40])
    write_jsonl(tmp_path / "test.jsonl", talks[40:])
    files = {"train": {"path": "train.jsonl"}, "sealed": {"path": "test.jsonl"}}
    values = {"kind": "instructions", "metric": "contains", **files}
    task = load_instructions(InstructionsTask.model_validate(values), tmp_path)
    example = task.splits.sealed[0]
    assert task.metric.per_example(f"Well: {example.target}", example) == 1.0
    assert len(task.splits.train) + len(task.splits.search) == 40
    with pytest.raises(ValueError, match="metric"):
        InstructionsTask.model_validate({"kind": "instructions", **files})


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (None, "must be a list of at least two texts, found nothing"),
        (["hello"], "must be a list of at least two texts, found 1"),
        (["hello", 3], "turn 2 must be a text, found int"),
        (["", "x"], "turn 1 is empty"),
    ],
)
def test_a_malformed_conversation_is_named(tmp_path: Path, turns: Any, message: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"conversations": ["a", "b"]}, {"conversations": turns}])
    files = {"train": {"path": "train.jsonl"}, "sealed": {"path": "train.jsonl"}}
    values = {"kind": "instructions", "metric": "contains", **files}
    with pytest.raises(
        ValueError, match=rf"train\.jsonl, line 2: field 'conversations'.*{message}"
    ):
        load_instructions(InstructionsTask.model_validate(values), tmp_path)
