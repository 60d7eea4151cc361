import json
from pathlib import Path

import pytest

from kilobit.evaluators.merge.dataset import DATASET_TABLES
from tests.support.cli.datasets import RIGHT, WRONG, aggregate, front, rows
from tests.support.runs import NUM_EXAMPLES, write_run


def test_what_two_runs_both_say_is_there_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", {"a": WRONG, "bb": RIGHT})
    two = write_run(tmp_path / "two", {"bb": RIGHT, "ccc": (1.0,) * 4})
    assert aggregate(one, two, "-o", tmp_path / "all") == 0
    found = rows(tmp_path / "all", "rungs")
    assert [(row["run"], row["candidate"]) for row in found] == [
        ("one", "a"), ("one", "bb"), ("two", "ccc")
    ]  # fmt: skip
    assert {row["part"] for row in found} == {"a-r0", "bb-r0", "ccc-r0"}
    assert len(rows(tmp_path / "all", "predictions")) == 3 * NUM_EXAMPLES
    assert len(rows(tmp_path / "all", "candidates")) == 3
    # Each run decided for itself.
    assert len(rows(tmp_path / "all", "decisions")) == 4
    assert not rows(tmp_path / "all", "conflicts")
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == sorted([*DATASET_TABLES, "dataset.json"])
    about = json.loads((tmp_path / "all" / "dataset.json").read_bytes())
    assert about["rows"]["rungs"] == 3
    assert [(s["name"], s["path"], s["rows"]["rungs"]) for s in about["sources"]] == [
        ("one", str(one), 2), ("two", str(two), 1)
    ]  # fmt: skip
    assert about["sources"][0]["about"]["sweep"]["name"] == "one"
    lines = front(capsys, tmp_path / "all")
    assert [(line["run"], line["candidate"]) for line in lines] == [
        ("one", "a"), ("one", "bb"), ("two", "ccc")
    ]  # fmt: skip
    both = front(capsys, one, two)
    assert [line | {"run": ""} for line in lines] == [line | {"run": ""} for line in both]
