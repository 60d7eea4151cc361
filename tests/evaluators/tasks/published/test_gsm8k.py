import json
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.metrics.metrics import parse_number
from kilobit.evaluators.tasks.published.gsm8k import Gsm8kTask, load_gsm8k
from kilobit.search.programs.postprocess import postprocess
from kilobit.search.task import Task, share
from tests.support.tasks.records import write_jsonl

SOLUTION = "He buys <<3*6=18>>18 apples.\n \n\nHe eats none. \n#### {}"


def problems(first: int, last: int, gold: str = "{}") -> list[dict[str, Any]]:
    return [
        {"question": f"How many are {i}?", "answer": SOLUTION.format(gold.format(i))}
        for i in range(first, last)
    ]


def task_from(folder: Path, train: list[Any], sealed: list[Any], **changes: Any) -> Task:
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "test.jsonl", sealed)
    files = {"train": {"path": "train.jsonl"}, "sealed": {"path": "test.jsonl"}}
    config = Gsm8kTask.model_validate({"kind": "gsm8k", **files, **changes})
    return load_gsm8k(config, folder)


def test_all_published_gold_answers_are_numbers_that_score(published: Path) -> None:
    files = {
        "train": {"path": "gsm8k/train.jsonl"},
        "sealed": {"path": "gsm8k/test.jsonl"},
    }
    config = Gsm8kTask.model_validate({"kind": "gsm8k", **files, "shown": "solution"})
    task = load_gsm8k(config, published)
    splits = (task.splits.train, task.splits.search, task.splits.sealed)
    assert [len(split) for split in splits] == [6001, 1472, 1319]
    examples = [example for split in splits for example in split]
    assert len(examples) == 8792
    golds = {}
    for name in ("train", "test"):
        for line in (published / "gsm8k" / f"{name}.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            golds[record["question"]] = record["answer"].split("#### ")[1]
    # By Python's own reading, which knows neither of our patterns.
    values = [float(golds[example.input].replace(",", "")) for example in examples]
    found = [parse_number(example.gold) for example in examples]
    assert [float(number) for number in found if number is not None] == values
    assert sum(value < 0 for value in values) == 5
    assert sum("," in gold for gold in golds.values()) == 93
    scores = [task.metric.per_example(golds[example.input], example) for example in examples]
    assert sum(scores) == 8792
    assert sum(task.metric.per_example("", example) for example in examples) == 0
    ends = [postprocess(example.target, ["last_number"]) for example in examples]
    assert sum(map(task.metric.per_example, ends, examples)) == 8792
    assert not any(stop in example.target for example in examples for stop in task.stop)


def test_the_search_split_is_a_share_by_hash(tmp_path: Path) -> None:
    splits = task_from(tmp_path, problems(0, 400), problems(400, 420), search_share=0.3).splits
    assert {e.input for e in splits.search} == {
        p["question"] for p in problems(0, 400) if share(p["question"]) < 0.3
    }
    assert 90 < len(splits.search) < 150
    assert len(splits.train) + len(splits.search) == 400
    assert len(splits.sealed) == 20


def test_the_last_mark_is_that_of_the_gold_answer(tmp_path: Path) -> None:
    data = problems(0, 30, "3 not so #### {}"), problems(30, 40)
    assert task_from(tmp_path, *data).splits.train[0].target in map(str, range(30))


def test_numbers_or_solutions_are_shown(tmp_path: Path) -> None:
    data = problems(0, 50, "-{},450.50"), problems(50, 60)
    task = task_from(tmp_path, *data)
    example = task.splits.train[0]
    number = example.input.removeprefix("How many are ").removesuffix("?")
    assert example.target == f"-{number}450.50"
    assert task.ask(example.input) == f"Question: {example.input}\nAnswer:"
    assert task.show(example.target) == f" -{number}450.50\n\n"
    example = task_from(tmp_path, *data, shown="solution").splits.train[0]
    assert example.target == f"He buys 18 apples.\nHe eats none.\n#### -{number}450.50"
    assert task.metric.per_example(f"-{number},450.5", example) == 1.0
    assert task.metric.per_example(example.target, example) == 0.0


def metamath(query: str, response: str = "So 5.\n#### 5\nThe answer is: 5", **more: str) -> Any:
    return {"query": query, "response": response, "type": "GSM_Rephrased", **more}


def test_metamath_adds_to_the_train_split_and_leaks_nothing(tmp_path: Path) -> None:
    task = task_from(tmp_path, problems(0, 100), problems(100, 110))
    hidden, sealed = task.splits.search[0].input, task.splits.sealed[0].input
    lines = [
        metamath("new"),
        metamath(hidden),
        metamath("rephrased", original_question=hidden),
        metamath("other", original_question=sealed),
        metamath("about sets", "\\{1\\}. The answer is: \\{1\\}", type="MATH_SV"),
        metamath("free", "The answer is: half  "),
    ]
    write_jsonl(tmp_path / "meta.jsonl", lines)
    (tmp_path / "list.json").write_text(json.dumps([metamath("from a list")]))
    files = [{"path": "meta.jsonl"}, {"path": "list.json"}]
    more = task_from(tmp_path, problems(0, 100), problems(100, 110), metamath=files)
    known = {e.id for e in task.splits.train}
    added = {e.input: e.target for e in more.splits.train if e.id not in known}
    assert added == {"new": "5", "free": "half", "from a list": "5"}
    assert more.splits.search == task.splits.search
    data = problems(0, 100), problems(100, 110)
    shown = task_from(tmp_path, *data, metamath=files, shown="solution", metamath_types=["MATH"])
    assert [e.target for e in shown.splits.train if e.input == "about sets"] == [
        "\\{1\\}. The answer is: \\{1\\}"
    ]


def test_a_training_problem_that_is_in_the_test_set_is_left_out(tmp_path: Path) -> None:
    splits = task_from(tmp_path, problems(0, 100), problems(95, 105)).splits
    assert len(splits.train) + len(splits.search) == 95
    assert len(splits.sealed) == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question": "q"}, "field 'answer' must be a text, found nothing"),
        ({"question": " ", "answer": "#### 1"}, "field 'question' is empty"),
        ({"question": "q", "answer": "it is 1"}, "must end in #### and a number, has no ####"),
        ({"question": "q", "answer": "x #### many"}, "has 'many' after it"),
        ({"question": "q", "answer": "x ####"}, "has '' after it"),
        ({"question": 3, "answer": "#### 1"}, "field 'question' must be a text, found 3"),
        ([1], "a JSON object is needed, found a list"),
    ],
)
def test_a_malformed_record_is_named(tmp_path: Path, line: Any, message: str) -> None:
    lines: list[Any] = problems(0, 30)
    lines[16] = line
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 17: .*{message}"):
        task_from(tmp_path, lines, problems(30, 40))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": "q", "response": "r"}, "field 'type' must be a text, found nothing"),
        (metamath("q", "5"), "field 'response' does not contain 'The answer is:'"),
        (metamath("q", "The answer is: "), "field 'response' is empty after 'The answer is:'"),
    ],
)
def test_a_malformed_metamath_record_is_named(tmp_path: Path, record: Any, message: str) -> None:
    write_jsonl(tmp_path / "meta.jsonl", [metamath("a"), record])
    with pytest.raises(ValueError, match=rf"meta\.jsonl, line 2: {message}"):
        task_from(tmp_path, problems(0, 30), problems(30, 40), metamath=[{"path": "meta.jsonl"}])
