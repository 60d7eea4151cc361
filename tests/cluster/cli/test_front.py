"""Points of others are shown beside ours, told apart, and counted nowhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from tests.support.runs import write_run

CSV = """name,performance,bits,script
better,1.0,8,
longer,1.0,800,
worse,0.1,80,
with a script,0.5,0,640
"""
MAP = "score=performance,payload_bits=bits,program_bits=script,candidate=name,task:=numbers,model:=tiny"  # noqa: E501


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Return a data set of points that would beat ours, were they ours."""
    file, out = tmp_path / "theirs.csv", tmp_path / "theirs"
    file.write_text(CSV)
    words = ["aggregate", "--import", str(file), "--map", MAP, "-o", str(out)]
    assert launch.main(words) == 0
    return out


def lines(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert launch.main(["front", *map(str, words), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_has_the_fields_of_ours_and_says_that_it_is_imported(
    tmp_path: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "ours", {"a": (1.0, 1.0, 1.0, 0.0)})
    ours, *imported = lines(capsys, run, theirs, "--length", "payload")
    assert [list(line) for line in imported] == [list(ours)] * 2
    assert [line["imported"] for line in (ours, *imported)] == [False, True, True]
    assert [(x["candidate"], x["payload_bits"], x["program_bits"]) for x in imported] == [
        ("with a script", 0, 640), ("better", 8, None)
    ]  # fmt: skip
    for line in imported:
        assert line["run"] == "theirs"
        assert line["verified"] is None
        assert line["certified"] is None
        assert line["lower"] is None
    # Those without this length are on no front of it.
    found = lines(capsys, run, theirs, "--length", "program")
    assert [line["candidate"] for line in found] == ["a", "with a script"]


def test_they_change_nothing_about_ours(
    tmp_path: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "ours", {"a": (1.0, 1.0, 1.0, 0.0)}, length="payload")
    assert launch.main(["aggregate", str(run), str(theirs), "-o", str(tmp_path / "all")]) == 0
    alone, both, merged = (
        lines(capsys, *words) for words in ([run], [run, theirs], [tmp_path / "all"])
    )
    assert both[:1] == alone
    assert merged == both
    capsys.readouterr()
    assert launch.main(["front", str(run)]) == 0
    shown_alone = capsys.readouterr().out
    assert launch.main(["front", str(tmp_path / "all")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(shown_alone)
    assert "numbers, tiny: imported, by payload bits as published" in shown
    assert "no complexity counts them" in shown
    # Ours reach 0.5 with eight bits; theirs, with none, are not looked at.
    assert "score ≥ 0.5 on the search split: at most 8 payload bits (not certified)" in shown


def test_imported_alone_take_the_length_that_most_have(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert launch.main(["front", str(theirs)]) == 0
    shown = capsys.readouterr().out
    assert "by payload bits" in shown
    assert "No candidate" not in shown
    assert launch.main(["front", str(theirs), "--length", "program"]) == 0
    assert "3 imported points lack this length; try --length payload" in capsys.readouterr().out


def test_the_same_file_twice_is_one_source(tmp_path: Path, theirs: Path) -> None:
    words = ["aggregate", "--import", str(tmp_path / "theirs.csv"), "--map", MAP, "-o", str(theirs)]
    assert launch.main(words) == 0
    about = json.loads((theirs / "dataset.json").read_bytes())
    assert about["rows"] == {"points": 4}
    (source,) = about["sources"]
    assert (source["kind"], source["about"]["map"]) == ("import", MAP)
    # Another file of that name is another source.
    (tmp_path / "theirs.csv").write_text(CSV.replace("0.5", "0.6"))
    assert launch.main(words) == 0
    about = json.loads((theirs / "dataset.json").read_bytes())
    assert [source["name"] for source in about["sources"]] == ["theirs", "theirs-2"]
    assert about["rows"] == {"points": 8}


def test_a_bad_file_ends_with_its_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("performance,bits\n0.5,8\n50,8\n")
    mapping = "score=performance,payload_bits=bits"
    words = ["aggregate", "--import", str(file), "--map", mapping, "-o", str(tmp_path / "out")]
    assert launch.main(words) == 2
    error = capsys.readouterr().err
    assert f"kilobit: {file}, line 3, column 'performance'" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]
