from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.tasks.published.esnli import EsnliTask, load_esnli
from kilobit.search.programs.postprocess import postprocess
from kilobit.search.task import Task
from tests.support.tasks.records import write_jsonl

# As the published data number them.
LABELS = ("entailment", "neutral", "contradiction")


def pair(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "premise": f"A dog runs past {number} cats.",
        "hypothesis": "An animal runs.",
        "label": number % 3,
        "explanation_1": "A dog is\nan animal.",
        **changes,
    }


def task_from(folder: Path, train: list[Any], sealed: list[Any], **changes: Any) -> Task:
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "test.jsonl", sealed)
    files = {"train": {"path": "train.jsonl"}, "sealed": {"path": "test.jsonl"}}
    return load_esnli(EsnliTask.model_validate({"kind": "esnli", **files, **changes}), folder)


def test_the_label_is_a_word_and_an_explanation_may_come_before_it(tmp_path: Path) -> None:
    data = [pair(i) for i in range(60)], [pair(i) for i in range(60, 70)]
    task = task_from(tmp_path, *data)
    for split in (task.splits.train, task.splits.search, task.splits.sealed):
        for example in split:
            number = int(example.input.split()[5])
            assert example.target == LABELS[number % 3]
            scores = [task.metric.per_example(label, example) for label in LABELS]
            assert scores == [float(i == number % 3) for i in range(3)]
    example = task.splits.train[0]
    assert task.ask(example.input) == f"{example.input}\nAnswer:"
    shown = task_from(tmp_path, *data, shown="explanation")
    example = shown.splits.train[0]
    assert example.target == f"A dog is an animal. {example.gold}"
    assert shown.metric.per_example(example.target, example) == 0.0
    assert shown.metric.per_example(postprocess(example.target, ["last_word"]), example) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": -1}, "field 'label' must be 0, 1 or 2, found -1"),
        ({"label": True}, "field 'label' must be 0, 1 or 2, found True"),
        ({"label": "neutral"}, "found 'neutral'"),
        ({"premise": None}, "field 'premise' must be a text, found null"),
        ({"explanation_1": " "}, "field 'explanation_1' is empty"),
    ],
)
def test_a_malformed_record_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    lines = [pair(i) for i in range(30)]
    lines[16] |= change
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 17: .*{message}"):
        task_from(tmp_path, lines, [pair(50)], shown="explanation")
