import json
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.tasks.sources import DatasetMissingError, Records, TextTask, read_records
from tests.support.tasks.records import write_jsonl


def test_a_file_a_list_and_a_folder_hold_the_same_records(tmp_path: Path) -> None:
    records = [{"a": number} for number in range(3)]
    write_jsonl(tmp_path / "all.jsonl", records)
    (tmp_path / "all.json").write_text(json.dumps(records))
    (tmp_path / "each" / "deeper").mkdir(parents=True)
    for record in records:
        (tmp_path / "each" / "deeper" / f"{record['a']}.json").write_text(json.dumps(record))
    places = []
    for name in ("all.jsonl", "all.json", "each"):
        found = list(read_records(Records(path=Path(name)), tmp_path))
        assert [record for _, record in found] == records
        places.append(found[1][0].removeprefix(str(tmp_path)))
    assert places == ["/all.jsonl, line 2", "/all.json, record 2", "/each/deeper/1.json"]


def test_a_data_set_names_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "train.jsonl", [{"a": 1}, {"a": 2}])
    found = list(read_records(Records(dataset="./data", split="train"), tmp_path))
    assert [record["a"] for _, record in found] == [1, 2]
    assert found[1][0].endswith("split 'train', record 1")
    with pytest.raises(DatasetMissingError, match="not on this machine"):
        list(read_records(Records(dataset="./none", split="train"), tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "\n\n", r"a\.jsonl: there are no records"),
        ("a.json", "{}", r"a\.json: a list of records is needed"),
        ("a.json", "[1]", r"a\.json, record 1: a JSON object is needed, found a int"),
        ("a.json", "[", r"a\.json: not JSON"),
        ("a.jsonl", "{}\n{", r"a\.jsonl, line 2: not JSON"),
    ],
)
def test_what_can_not_be_read_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_records(Records(path=Path(name)), tmp_path))


def test_an_empty_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the folder holds no \.json file"):
        list(read_records(Records(path=Path()), tmp_path))
    with pytest.raises(ValueError, match=r"none\.jsonl: No such file"):
        list(read_records(Records(path=Path("none.jsonl")), tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "Q:"}, "must contain {input} once"),
        ({"question": "{input}{input}"}, "must contain {input} once"),
        ({"answer": "A:"}, "must contain {target} once"),
        ({"stop": [""]}, "at least 1 character"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"name": ""}, "at least 1 character"),
        ({"temperature": 1}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_task_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextTask.model_validate({"name": "t"} | changes)


def test_a_task_asks_by_lines_unless_it_says_otherwise() -> None:
    task = TextTask(name="t")
    assert (task.question, task.answer, task.stop) == ("{input}\n", "{target}\n", ("\n",))
