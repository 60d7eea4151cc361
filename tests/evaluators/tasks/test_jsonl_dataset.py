from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.tasks.jsonl import DatasetTask, load_dataset_task
from kilobit.evaluators.tasks.sources import DatasetMissingError
from tests.support.tasks.records import numbers, write_jsonl


def dataset(**changes: Any) -> DatasetTask:
    values = {
        "kind": "dataset",
        "name": "mine",
        "dataset": "./data",
        "metric": "exact_match",
        "splits": {"train": "train[:20]", "search": "train[20:]", "sealed": "test"},
    }
    return DatasetTask.model_validate(values | changes)


def test_a_folder_is_loaded_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "train.jsonl", numbers(0, 30))
    write_jsonl(tmp_path / "data" / "test.jsonl", numbers(30, 40))
    splits = load_dataset_task(dataset(), tmp_path).splits
    assert (len(splits.train), len(splits.search), len(splits.sealed)) == (20, 10, 10)
    names = {"train": "train[:20]", "search": "nosuch", "sealed": "test"}
    with pytest.raises(ValueError, match=r"split 'nosuch': "):
        load_dataset_task(dataset(splits=names), tmp_path)


def test_a_missing_data_set_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match=r"not on this machine"):
        load_dataset_task(dataset(dataset="./nowhere"), tmp_path)
