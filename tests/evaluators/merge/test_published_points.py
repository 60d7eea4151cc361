"""Points of others: what a file does not say is unknown, what it says wrongly is an error."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kilobit.evaluators.merge.published_points import (
    parse_import,
    parse_mapping,
    read_points,
)

CSV = "name,performance,bits\nfirst,0.25,1024\nsecond,0.5,\n"
MAP = "score=performance,payload_bits=bits,candidate=name,task:=gsm8k"


def read(
    tmp_path: Path, content: str, *mappings: str, name: str = "t.csv", **more: list[str]
) -> pa.Table:
    path = tmp_path / name
    path.write_text(content, "utf-8")
    return read_points(path, parse_import(mappings or [MAP], **more))[0]


def points(table: pa.Table) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]


FIRST = {"task": "gsm8k", "candidate": "first", "score": 0.25, "payload_bits": 1024}


def test_csv_jsonl_and_parquet_say_the_same(tmp_path: Path) -> None:
    found = read(tmp_path, "\ufeffname,performance,bits\n\nfirst,0.25,1024.0\n")
    assert points(found) == [FIRST | {"line": 3}]
    tabs = read(tmp_path, "name\tperformance\tbits\nfirst\t0.25\t1024\n", name="t.tsv")
    assert points(tabs) == [FIRST | {"line": 2}]
    line = '{"name": "first", "performance": 0.25, "bits": 1024, "more": [1]}\n'
    assert points(read(tmp_path, line, name="t.jsonl")) == [FIRST | {"line": 1}]
    table = pa.table({"name": ["first"], "performance": [0.25], "bits": [1024.0]})
    pq.write_table(table, tmp_path / "t.parquet")
    (row,) = points(read_points(tmp_path / "t.parquet", parse_import([MAP]))[0])
    assert row == FIRST | {"line": 1}


def test_what_is_not_said_is_unknown(tmp_path: Path) -> None:
    content = "p,q,s,low,n\n8,,0.5,nan,\n,16,0.5,0.25,7\n"
    mapping = "program_bits=p,payload_bits=q,score=s,lower=low,num_examples=n"
    assert points(read(tmp_path, content, mapping)) == [
        {"program_bits": 8, "score": 0.5, "line": 2},
        {"payload_bits": 16, "score": 0.5, "lower": 0.25, "num_examples": 7, "line": 3},
    ]


def test_a_column_may_have_a_comma_or_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    content = '"score, test",a=b\n0.5,8\n'
    found = read(tmp_path, content, "score=score, test,payload_bits=a=b,model:=x, y")
    assert points(found) == [{"model": "x, y", "score": 0.5, "payload_bits": 8, "line": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,performance\na,0.5\n", r"t.csv: no column 'bits' for payload_bits; there are "
         r"'name', 'performance'; to use it as the value of all rows, write payload_bits:=bits"),
        ("name,performance,bits\na,45.3,8\n", r"t.csv, line 2, column 'performance': a number "
         r"from 0 to 1 is needed, found '45.3'; write score%=performance for percentages and BLEU"),
        ("name,performance,bits\na,high,8\n", r"line 2, column 'performance': .* found 'high'"),
        ("name,performance,bits\na,,8\n", r"line 2, column 'performance': a score from 0 to 1 is "
         r"needed, found none"),
        ("name,performance,bits\na,0.5,\n", r"line 2, column 'bits': a length is needed"),
        ("name,performance,bits\na,0.5,8\nb,0.5,8.5\n", r"line 3, column 'bits': a whole number "
         r"from 0 to \d+ is needed, found '8.5'"),
        ("name,performance,bits\na,0.5,-8\n", r"line 2, column 'bits': .* found '-8'"),
        ("name,performance,bits\na,0.5,inf\n", r"line 2, column 'bits': .* found 'inf'"),
        ("name,performance,bits\na,0.5\n", r"line 2: 2 values, but the header names 3 columns"),
        ("name,bits,bits\na,0.5,8\n", r"line 1: two columns are called 'bits'"),
        ('name,performance,bits\n"a,0.5,8\n', r"t.csv, line 2: not CSV"),
        ("name,performance,bits\n", r"t.csv: the file holds no points"),
        ("", r"t.csv: the file holds no points"),
    ],
)  # fmt: skip
def test_an_error_names_line_and_column_and_what_is_allowed(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", "[1]\n", "t.jsonl, line 1: a JSON object is needed, found a list"),
        ("t.jsonl", "{\n", "t.jsonl, line 1: not JSON"),
        ("t.jsonl", '{"name": {}, "performance": 1, "bits": 1}', "line 1, column 'name': a text"),
        ("t.jsonl", '{"name": "a", "performance": true, "bits": 1}', "column 'performance'"),
        ("t.parquet", "no", "t.parquet: not a readable Parquet file"),
        ("t.xlsx", "no", r"t.xlsx: .* has to end in one of .csv, .tsv, .jsonl, .ndjson"),
    ],
)
def test_other_files_have_errors_of_their_own(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content, name=name)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=re.escape(name)):
        read_points(tmp_path / name, parse_import([MAP]))


def test_not_utf8_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"name,performance,bits\n\xff,0.5,8\n")
    with pytest.raises(ValueError, match=r"t.csv: not UTF-8"):
        read_points(tmp_path / "t.csv", parse_import([MAP]))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("payload_bits=bits", "--map: score is needed"),
        ("score=s", "--map: program_bits or payload_bits is needed"),
        ("score=s,bits=b", "--map: unknown field 'bits'; the fields are task, model"),
        ("accuracy=s,payload_bits=b", "--map: unknown field 'accuracy'; the fields are task"),
        ("score=s,payload_bits=b,tsk:=object", "--map: unknown field 'tsk'; the fields are task"),
        ("score=s, modle = m,payload_bits=b", "--map: unknown field 'modle'; the fields are task"),
        ("score=s,score=t,payload_bits=b", "--map: score is given twice"),
        ("score=,payload_bits=b", "--map: 'score=' is neither FIELD=COLUMN nor FIELD:=VALUE"),
        ("score", "--map: 'score' is neither FIELD=COLUMN"),
        ("", "--map: '' is neither FIELD=COLUMN"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_said(mapping: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mapping(mapping)


def test_percent_paths_conditions_names_and_script_bits(tmp_path: Path) -> None:
    content = (
        "data,weights,how,bits,result,low\n"
        "wmt,/a/b/step9/,lora,80,22.5,20\n"
        "gsm,/a/c/final,prompt,16,0.5,0.25\n"
        "gsm,final,prompt, 24 ,0.625,\n"
        "xsum,/a/c/final,prompt,24,9000,\n"
        "wmt,step1,none,8,100,0\n"
    )
    fields = "payload_bits=bits,task=data,model/=weights,family=how"
    (tmp_path / "t.csv").write_text(content)
    wanted = parse_import(
        [
            f"data==wmt,score%=result,lower%=low,{fields}",
            f"data != wmt|xsum,score=result,{fields}",
        ],
        ["model:final=OLMo, 7 B", "task:gsm=gsm8k"],
        ["lora=5000", "prompt=3064"],
    )
    found, left_out = read_points(tmp_path / "t.csv", wanted)
    assert left_out == 1
    rows = points(found)
    assert [(r["task"], r["model"], r["payload_bits"], r.get("program_bits")) for r in rows] == [
        ("wmt", "step9", 80, 5080),
        ("gsm8k", "OLMo, 7 B", 16, 3080),
        ("gsm8k", "OLMo, 7 B", 24, 3088),
        ("wmt", "step1", 8, None),
    ]
    assert [(r["score"], r.get("lower"), r["line"]) for r in rows] == [
        (0.225, 0.2, 2), (0.5, None, 3), (0.625, None, 4), (1.0, 0.0, 6)
    ]  # fmt: skip


def test_program_bits_that_are_published_stay(tmp_path: Path) -> None:
    content = "s,p,q,f\n0.5,640,8,lora\n0.5,,8,lora\n0.5,,8,other\n"
    mapping = "score=s,program_bits=p,payload_bits=q,family=f"
    rows = points(read(tmp_path, content, mapping, script_bits=["lora=100"]))
    assert [row.get("program_bits") for row in rows] == [640, 108, None]


def test_errors_come_together_and_ten_at_most(tmp_path: Path) -> None:
    content = "name,performance,bits\na,22.5,8\nb,0.5,x\nc,high,8.5\nd,0.5,8\ne,,8\n"
    with pytest.raises(ValueError, match=r"from 0 to 1 is needed, found '22\.5'") as raised:
        read(tmp_path, content)
    lines = str(raised.value).splitlines()
    assert [re.search(r"line (\d), column '(\w+)'", line).groups() for line in lines] == [  # type: ignore[union-attr]
        ("2", "performance"), ("3", "bits"), ("4", "bits"), ("4", "performance"),
        ("6", "performance"),
    ]  # fmt: skip
    many = "name,performance,bits\n" + "a,9,8\n" * 30
    with pytest.raises(ValueError, match="line 2") as raised:
        read(tmp_path, many)
    *lines, last = str(raised.value).splitlines()
    assert (len(lines), last) == (10, "(no more than ten errors are listed)")
    # What can't be read any further is said after what was found before it.
    with pytest.raises(ValueError, match=r"line 2, .*found '9'; .*\n.*line 3: 2 values, but"):
        read(tmp_path, "name,performance,bits\na,9,8\nb,1\n")


@pytest.mark.parametrize(
    ("mappings", "more", "message"),
    [
        ([f"name==x,{MAP}", MAP], {}, r"--map name==x,.*: it takes no row of .*t.csv"),
        ([MAP, MAP], {}, "--map score=.*: it takes no row"),
        ([f"who==x,{MAP}"], {}, "t.csv: no column 'who' of --map; there are 'name', 'perf"),
        ([MAP], {"names": ["model:a=b"]}, "--rename model:a: no point of .* has this model"),
        ([MAP], {"names": ["candidate:first"]}, r"--rename: 'candidate:first' is not FIELD:OLD=N"),
        ([MAP], {"names": ["score:1=2"]}, "--rename: 'score:1=2' is not .* one of task, model"),
        ([MAP], {"script_bits": ["lora"]}, "--script-bits: 'lora' is not FAMILY=BITS"),
        ([MAP], {"script_bits": ["lora=x"]}, "--script-bits lora: a whole number .* found 'x'"),
        ([MAP], {"script_bits": ["lora=8"]}, "--script-bits lora: no point of .* has this fam"),
        (["score=s,payload_bits%=b"], {}, "--map: payload_bits%= can't be used: it is for score"),
        (["score/=s,payload_bits=b"], {}, "--map: score/= can't be used: it is for task, model"),
        (["score%=performance,payload_bits=bits", "score=name"], {}, "--map: program_bits or"),
    ],
)
def test_options_that_do_nothing_or_make_no_sense_are_said(
    tmp_path: Path, mappings: list[str], more: dict[str, list[str]], message: str
) -> None:
    content = "name,performance,bits\nfirst,0.25,1024\n"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content, *mappings, **more)


def test_percentages_end_at_a_hundred(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'s': a number from 0 to 100 is .* found '100\.5'"):
        read(tmp_path, "s,b\n100.5,8\n", "score%=s,payload_bits=b")
