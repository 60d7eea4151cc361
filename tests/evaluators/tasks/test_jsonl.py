from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.tasks.jsonl import JsonlTask, load_jsonl
from kilobit.evaluators.tasks.registry import load_task
from tests.support.tasks.records import numbers, write_jsonl


def config(**changes: Any) -> JsonlTask:
    values = {"kind": "jsonl", "name": "mine", "data": "all.jsonl", "metric": "exact_match"}
    return JsonlTask.model_validate(values | changes)


def test_one_file_is_divided_by_the_hash_of_the_input(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "all.jsonl", numbers(0, 400))
    splits = load_jsonl(config(), tmp_path).splits
    assert len(splits.train) + len(splits.search) + len(splits.sealed) == 400
    assert 60 < len(splits.search) < 140
    assert 60 < len(splits.sealed) < 140
    assert splits.search[0].target == str(int(splits.search[0].input.split()[0]) + 1)
    write_jsonl(tmp_path / "all.jsonl", numbers(0, 500))
    longer = load_jsonl(config(), tmp_path).splits
    assert {e.id for e in splits.sealed} <= {e.id for e in longer.sealed}


def test_repeated_inputs_stay_in_one_split_with_ids_of_their_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "all.jsonl", numbers(0, 60) + numbers(0, 60))
    splits = load_jsonl(config(), tmp_path).splits
    examples = [*splits.train, *splits.search, *splits.sealed]
    assert len(examples) == len({e.id for e in examples}) == 120


def test_three_files(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "search", "sealed")):
        write_jsonl(tmp_path / f"{name}.jsonl", numbers(10 * number, 10 * number + 10))
    files = {name: f"{name}.jsonl" for name in ("train", "search", "sealed")}
    splits = load_task(config(data=None, files=files), tmp_path).splits
    assert {len(splits.train), len(splits.search), len(splits.sealed)} == {10}


def test_overlapping_files_are_refused_with_the_input(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", numbers(0, 10))
    write_jsonl(tmp_path / "b.jsonl", numbers(9, 20))
    write_jsonl(tmp_path / "c.jsonl", numbers(30, 40))
    files = {"train": "a.jsonl", "search": "b.jsonl", "sealed": "c.jsonl"}
    with pytest.raises(ValueError, match=r"'9 \+ 1 =' is in both the train and the search split"):
        load_jsonl(config(data=None, files=files), tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input": "x", "target": "y"', r"line 17: not JSON"),
        ("[1, 2]", r"line 17: a JSON object is needed, found a list"),
        ('{"input": "x"}', r"line 17: field 'target' must be a text or a number, found nothing"),
        ('{"input": null, "target": 1}', r"line 17: field 'input' .* found null"),
        ('{"input": "x", "target": true}', r"line 17: field 'target' .* found true"),
        ('{"input": "x", "target": NaN}', r"line 17: field 'target' .* found NaN"),
        ('{"input": -Infinity, "target": 1}', r"line 17: field 'input' .* found -Infinity"),
        ('{"input": "x", "target": 1e999}', r"line 17: field 'target' .* found Infinity"),
        ('{"input": "x", "target": ' + "9" * 5000 + "}", r"line 17: not JSON: Exceeds the limit"),
        (r'{"input": "\ud800", "target": "x"}', r"line 17: field 'input' holds half of a surr"),
        (r'{"input": "x", "target": "\udfff"}', r"line 17: field 'target' holds half of a surr"),
        ('{"input": "", "target": "x"}', r"line 17: field 'input' is empty"),
        ('{"input": "x", "target": " \\n"}', r"line 17: field 'target' is empty"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    write_jsonl(tmp_path / "all.jsonl", numbers(0, 30))
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    lines[16] = line
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"all\.jsonl, {message}"):
        load_jsonl(config(), tmp_path)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_bytes(b'{"input": "\xff"}\n')
    with pytest.raises(ValueError, match=r"line 1: not JSON"):
        load_jsonl(config(), tmp_path)


def test_empty_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match=r"all\.jsonl: the file holds no examples"):
        load_jsonl(config(), tmp_path)
    with pytest.raises(ValueError, match=r"other\.jsonl: No such file"):
        load_jsonl(config(data="other.jsonl"), tmp_path)


def test_the_target_may_follow_a_mark(tmp_path: Path) -> None:
    records = [{"input": f"q{i}", "target": f"think #### no #### {i}"} for i in range(40)]
    write_jsonl(tmp_path / "all.jsonl", records)
    example = load_jsonl(config(target_after="#### "), tmp_path).splits.train[0]
    assert example.target == example.input.removeprefix("q")
    write_jsonl(tmp_path / "all.jsonl", [*records, {"input": "x", "target": "none #### "}])
    with pytest.raises(ValueError, match=r"line 41: field 'target' is empty after '#### '"):
        load_jsonl(config(target_after="#### "), tmp_path)
    with pytest.raises(ValueError, match=r"does not contain target_after '@@'"):
        load_jsonl(config(target_after="@@"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "give either `data`"),
        ({"question": "no place"}, "must contain {input}"),
        ({"answer": "no place"}, "must contain {target}"),
        ({"question": "{input}, {input}"}, "must contain {input} once"),
        ({"fractions": {"search": 0.6, "sealed": 0.5}}, "leave no train split"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def questions(passages: int, each: int) -> list[dict[str, Any]]:
    return [
        {"input": f"{p}: question {q}", "target": "x", "passage": p}
        for p in range(passages)
        for q in range(each)
    ]


def test_what_belongs_together_stays_in_one_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "all.jsonl", questions(60, 5))
    splits = load_jsonl(config(cluster_field="passage"), tmp_path).splits
    found = [{e.cluster for e in split} for split in (splits.train, splits.search, splits.sealed)]
    assert all(len(clusters) > 5 for clusters in found)
    assert sum(map(len, found)) == len(set.union(*found)) == 60
    assert len(splits.sealed) == 5 * len(found[2])
    # Without the field the questions on a passage are in several splits.
    apart = load_jsonl(config(), tmp_path).splits
    assert {e.input[:3] for e in apart.train} & {e.input[:3] for e in apart.sealed}
    with pytest.raises(ValueError, match=r"line 1: field 'user' must be a text or a number"):
        load_jsonl(config(cluster_field="user"), tmp_path)


def test_files_with_one_cluster_in_two_splits_are_refused(tmp_path: Path) -> None:
    records = questions(3, 2)
    for name, part in (("a", records[:3]), ("b", records[3:4]), ("c", records[4:])):
        write_jsonl(tmp_path / f"{name}.jsonl", part)
    files = {"train": "a.jsonl", "search": "b.jsonl", "sealed": "c.jsonl"}
    load_jsonl(config(data=None, files=files), tmp_path)
    with pytest.raises(ValueError, match="the cluster '1' is in both the train and the search"):
        load_jsonl(config(data=None, files=files, cluster_field="passage"), tmp_path)


def test_another_seed_divides_the_file_in_another_way(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "all.jsonl", numbers(0, 400))

    def sealed(**fractions: Any) -> set[str]:
        return {e.id for e in load_jsonl(config(fractions=fractions), tmp_path).splits.sealed}

    assert sealed() == sealed(seed=0)
    assert len(sealed(seed=1) & sealed(seed=2)) < 50
    assert 60 < len(sealed(seed=1)) < 140


def test_near_duplicates_are_an_error_where_the_task_asks(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "search", "sealed")):
        write_jsonl(tmp_path / f"{name}.jsonl", numbers(10 * number, 10 * number + 10))
    write_jsonl(tmp_path / "search.jsonl", [{"input": "9  + 1 =", "target": "10"}])
    files = {name: f"{name}.jsonl" for name in ("train", "search", "sealed")}
    load_task(config(data=None, files=files), tmp_path)
    found = r"task mine: inputs of the search split .*: 1, for example '9 \+ 1 =' and '9  \+ 1 ='"
    with pytest.raises(ValueError, match=found):
        load_task(config(data=None, files=files, near_duplicates="error"), tmp_path)
