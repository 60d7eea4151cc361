"""Overlays: what is read, and how errors name file, line, column and what is there."""

from pathlib import Path

import pytest

from kilobit.evaluators.merge.published_points import parse_columns, read_overlay
from kilobit.evaluators.report.contents import Published


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8", newline="")
    return path


def test_csv_and_json_lines_hold_the_same(tmp_path: Path) -> None:
    csv = written(
        tmp_path,
        "a.csv",
        '\ufeffbits,score,label,upper\r\n\r\n96,.25,"A, ""b""",0.5\r\n8e3,1,,\r\n',
    )
    lines = written(
        tmp_path,
        "a.jsonl",
        '{"bits": 96, "score": 0.25, "label": "A, \\"b\\"", "upper": 0.5}\n\n'
        '{"bits": "8000", "score": 1, "label": null}\n',
    )
    expected = [Published('A, "b"', 96, 0.25, upper=0.5), Published("a", 8000, 1)]
    assert read_overlay(csv, {}) == expected
    assert read_overlay(lines, {}) == expected


def test_columns_are_named(tmp_path: Path) -> None:
    columns = parse_columns("bits=length, score=acc,task=on,label=the name")
    assert columns == {"bits": "length", "score": "acc", "task": "on", "label": "the name"}
    path = written(tmp_path, "a.tsv", "length\tacc\ton\tthe name\n1\t0\tnumbers\tx\n")
    assert read_overlay(path, columns) == [Published("x", 1, 0, task="numbers")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits", r"--columns: 'bits' can't be used: NAME=COLUMN is needed"),
        ("size=a", r"one of bits, score, label, lower, upper, task, program_bits"),
        ("bits=", r"'bits=' can't be used"),
        ("bits=a,bits=b", r"bits is given twice"),
        ("", r"'' can't be used"),
    ],
)
def test_columns_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_columns(text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "bits,acc\n1,0.5\n",
            r"a.csv, line 2: no column 'score'; there are 'bits', 'acc'",
        ),
        (
            "a.csv",
            "bits,score\n1,0.5\nx,0.5\n",
            r"line 3, column 'bits': a length in bits of .* found 'x'",
        ),
        ("a.csv", "bits,score\n-1,0.5\n", r"line 2, column 'bits': a length .* found '-1'"),
        ("a.csv", "bits,score\n1,nan\n", r"line 2, column 'score': a number from 0 .* found 'nan'"),
        (
            "a.csv",
            "bits,score\n1,45.2\n",
            r"column 'score': .* found '45.2'; divide percentages",
        ),
        ("a.csv", "bits,score\n1\n", r"line 2: 1 values, but the header names 2 columns"),
        ("a.csv", "bits,bits\n1,1\n", r"line 1: two columns are called 'bits'"),
        ("a.csv", "bits,score\n", r"a.csv: the file holds no points"),
        ("a.csv", 'bits,score\n"1\n2",0.5\n', r"line 3, column 'bits': .* found '1\\n2'"),
        ("a.csv", "bits,score,upper\n1,0.5,high\n", r"line 2, column 'upper': .* found 'high'"),
        ("a.jsonl", '{"bits": 1, "score": 0.5}\n{"bits"\n', r"a.jsonl, line 2: not JSON"),
        ("a.jsonl", "[1, 0.5]\n", r"line 1: a JSON object is needed, found a list"),
        ("a.jsonl", '{"bits": true, "score": 0.5}\n', r"column 'bits': .* found True"),
        ("a.jsonl", '{"bits": 1e999, "score": 0.5}\n', r"column 'bits': .* found inf"),
        ("a.jsonl", '{"bits": null, "score": 0.5}\n', r"column 'bits': .* found None"),
        ("a.txt", "", r"a.txt: .* has to end in one of .csv, .tsv, .jsonl, .ndjson"),
        ("a.csv", "bits,score\n" + "1,0.5\n" * 10_001, r"more than 10000 points"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_overlay(written(tmp_path, name, text), {})


def test_a_named_column_has_to_be_there(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "bits,score\n1,0.5\n")
    with pytest.raises(ValueError, match=r"line 2: no column 'who'; there are 'bits', 'score'"):
        read_overlay(path, {"label": "who"})


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.csv: No such file"):
        read_overlay(tmp_path / "gone.csv", {})
    (tmp_path / "bad.csv").write_bytes(b"bits,score\n\xff,1\n")
    with pytest.raises(ValueError, match=r"bad.csv: not UTF-8"):
        read_overlay(tmp_path / "bad.csv", {})


def test_the_names_of_an_import_are_known_too(tmp_path: Path) -> None:
    text = "model,program_bits,payload_bits,score\nOLMo,640,8,0.5\n"
    path = written(tmp_path, "a.csv", text)
    assert read_overlay(path, {}) == [Published("OLMo", 640, 0.5)]
    assert read_overlay(path, {}, "payload") == [Published("OLMo", 8, 0.5)]
    with pytest.raises(ValueError, match="no column 'bits'; there are 'model', 'program_bits'"):
        read_overlay(path, {}, "net")
    named = written(tmp_path, "b.csv", "m,size,all,score\nOLMo,8,640,0.5\n")
    columns = parse_columns("payload_bits=size,program_bits=all,model=m")
    assert read_overlay(named, columns, "payload") == [Published("OLMo", 8, 0.5)]
    assert read_overlay(named, columns) == [Published("OLMo", 640, 0.5)]
    # The overlay's own names come first.
    both = written(tmp_path, "c.csv", "bits,program_bits,label,model,score\n1,2,x,y,0.5\n")
    assert read_overlay(both, {}) == [Published("x", 1, 0.5)]
