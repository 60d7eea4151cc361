"""The one reader of the user's text files: what is the same text, what is not, what is refused."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.battery.safety import requests_in
from kilobit.evaluators.judges.answers import read_answers
from kilobit.evaluators.merge.published_points import parse_import, read_overlay, read_points
from kilobit.evaluators.proof.program_files import read_examples
from kilobit.evaluators.tasks.jsonl import JsonlTask, read_jsonl
from kilobit.evaluators.tasks.sources import Records, read_records
from kilobit.evaluators.text_files import (
    Spelled,
    csv_rows,
    json_lines,
    json_objects,
    number_text,
    text_lines,
)

# What str.splitlines takes for the end of a line, and JSON Lines does not.
NOT_ENDS = ["\u2028", "\u2029", "\x85", "\x7f"]
TASK = JsonlTask.model_validate(
    {"kind": "jsonl", "name": "t", "data": "f.jsonl", "metric": "exact_match"}
)


def texts_of_a_task(path: Path) -> list[str]:
    return [example.input for example in read_jsonl(path, TASK)]


def texts_of_requests(path: Path) -> list[str]:
    return [request.prompt for request in requests_in(path)]


def texts_of_answers(path: Path) -> list[str]:
    return [answer.output for answer in read_answers(path).values()]


def texts_of_points(path: Path) -> list[str]:
    table, _ = read_points(path, parse_import(["score=score,payload_bits=bits,model=label"]))
    return [str(name) for name in table["model"].to_pylist()]


def texts_of_curves(path: Path) -> list[str]:
    return [point.label for point in read_overlay(path, {})]


def texts_of_records(path: Path) -> list[str]:
    return [str(record["input"]) for _, record in read_records(Records(path=path), path.parent)]


def texts_of_a_program(path: Path) -> list[str]:
    path.rename(path.parent / "examples.jsonl")
    return [example["input"] for example in read_examples(path.parent)]


READERS: dict[Callable[[Path], list[str]], dict[str, Any]] = {
    texts_of_a_task: {"input": "TEXT", "target": "x"},
    texts_of_records: {"input": "TEXT"},
    texts_of_requests: {"prompt": "TEXT", "intent": "explicit", "severity": "benign"},
    texts_of_answers: {"id": "1", "output": "TEXT"},
    texts_of_a_program: {"input": "TEXT", "output": "x"},
    texts_of_points: {"label": "TEXT", "bits": 8, "score": 0.5},
    texts_of_curves: {"label": "TEXT", "bits": 8, "score": 0.5},
}


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_each_reader_ends_lines_where_json_lines_does(
    read: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    line = json.dumps(READERS[read])
    text = "a" + "b".join(NOT_ENDS) + "c"
    path = tmp_path / "f.jsonl"
    content = (
        line.replace("TEXT", text) + "\r\n \r\n" + line.replace("TEXT", "d").replace('"1"', "2")
    )
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert read(path) == [text, "d"]


BAD = {
    '"TEXT': "not JSON: ",
    '"TEXT"}': "not JSON: Extra data",
    '"TE\x00XT"': "not JSON: Invalid control character",
    '"TE\nXT"': "not JSON: Unterminated string",
    r'"\ud800"': "holds half of a surrogate pair",
    r'["\udc00\ud800"]': "holds half of a surrogate pair",
    r'{"\uDFFF": 1}': "holds half of a surrogate pair",
    "NaN": "not JSON: found NaN",
    '{"a": [-Infinity]}': "not JSON: found -Infinity",
    "[" * 100_000: "not JSON: maximum recursion depth",
    "[" * 500 + "]" * 500: "not JSON: nested more than 100 levels deep",
    '{"a": ' * 200 + "1" + "}" * 200: "not JSON: nested more than 100 levels deep",
    '{"a": 1, "a": 1}': "not JSON: the key 'a' is given twice",
    '"x", "more": 1, "more": 2': "not JSON: the key 'more' is given twice",
    "\ufeff1": "not JSON: ",
    "01": "not JSON: ",
    "+1": "not JSON: ",
    "'x'": "not JSON: ",
}


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_each_reader_names_file_and_line(read: Callable[[Path], list[str]], tmp_path: Path) -> None:
    line = json.dumps(READERS[read])
    for value, message in BAD.items():
        path = tmp_path / "f.jsonl"
        lines = line.replace("TEXT", "fine"), line.replace('"TEXT"', value)
        path.write_bytes("\n".join(lines).encode())
        with pytest.raises(ValueError, match=r"(f|examples)\.jsonl, line 2: ") as raised:
            read(path)
        assert message in str(raised.value).replace("is not JSON", "not JSON"), value


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_each_reader_refuses_what_is_not_utf8(
    read: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    line = json.dumps(READERS[read])
    for content in (f"{line}\n".encode("utf-16"), line.replace("TEXT", "é").encode("latin-1")):
        path = tmp_path / "f.jsonl"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"\.jsonl, line 1: not JSON: 'utf-8' codec"):
            read(path)


SPELLINGS = (
    "0 -0 7 007e0 0.00001 1e-5 1E-05 1.0 1 1.50 1.5 -0.0 1e22 10000000000000000000000 "
    "0.1000000000000000055511151231257827 123456789012345678901234567890 2.0E+3 5e-324"
).replace("007e0", "7e0")


def test_numbers_keep_their_spelling(tmp_path: Path) -> None:
    spellings = SPELLINGS.split()
    path = tmp_path / "f.jsonl"
    lines = [f'{{"input": "q{i}", "target": {text}}}' for i, text in enumerate(spellings)]
    path.write_text("\n".join(lines), "utf-8")
    assert [example.target for example in read_jsonl(path, TASK)] == spellings
    rng = random.Random(0)
    for _ in range(2000):
        digits = "".join(rng.choices("0123456789", k=rng.randint(1, 24)))
        text = str(int(digits)) + rng.choice(["", f".{digits}", f"e-{rng.randint(0, 99)}"])
        path.write_text(f'{{"input": {text}, "target": "x"}}', "utf-8")
        assert texts_of_a_task(path) == [text]


def test_numbers_keep_their_value(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("[" + ", ".join(SPELLINGS.split()) + "]", "utf-8")
    ((_, found),) = json_lines(path)
    assert found == json.loads(path.read_bytes())
    assert json.dumps(found) == json.dumps(
        [json.loads(text) for text in SPELLINGS.split()]
    ).replace("[0, 0, ", "[0, -0.0, ")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-05, "0.00001"),
        (1.5e-07, "0.00000015"),
        (1.0, "1.0"),
        (1e16, "10000000000000000"),
        (-2.5, "-2.5"),
        (10**30, "1" + "0" * 30),
        (Spelled("1e-05"), "1e-05"),
    ],
)
def test_a_number_without_a_spelling_has_no_exponent(number: float, text: str) -> None:
    assert number_text(number) == text


def test_plain_lines_and_csv_end_where_editors_say_so(tmp_path: Path) -> None:
    text = "one" + "".join(NOT_ENDS) + "still\x0b\x0cone"
    (tmp_path / "f").write_bytes(f"\ufeff{text}\r\ntwo\n\n".encode())
    assert text_lines(tmp_path / "f") == [text, "two", ""]
    (tmp_path / "f").write_bytes(f'\ufeffa, b\r\n\r\n{text},"x\ny"\n007,1.0\n'.encode())
    assert list(csv_rows(tmp_path / "f", ",")) == [
        (f"{tmp_path / 'f'}, line 4", {"a": text, "b": "x\ny"}),
        (f"{tmp_path / 'f'}, line 5", {"a": "007", "b": "1.0"}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\xff", "f: not UTF-8 at byte 2"),
        (b"a\n\0", "f: holds the character NUL"),
        (b"a,a\n", "f, line 1: two columns are called 'a'"),
        (b"a,b\n1\n", "f, line 2: 1 values, but the header names 2 columns"),
        (b'a,b\n"1,2\n', "f, line 2: not CSV"),
        (b"a,b\n1,2\n" + b"x" * 200_000 + b",1\n", "f, line 3: not CSV: field larger"),
    ],
)
def test_bad_csv_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(csv_rows(tmp_path / "f", ","))


def test_bad_lines_are_named(tmp_path: Path) -> None:
    for content, message in ((b"fine\n\xff\n", "not UTF-8 at byte 0"), (b"x\na\0b", "NUL")):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(ValueError, match=rf"f, line 2: .*{message}"):
            text_lines(tmp_path / "f")
    with pytest.raises(ValueError, match="f: larger than the allowed 1 bytes"):
        text_lines(tmp_path / "f", 1)
    (tmp_path / "f").write_bytes(b"[1]")
    with pytest.raises(ValueError, match="f, line 1: a JSON object is needed, found a list"):
        list(json_objects(tmp_path / "f"))


def test_a_prompt_holds_no_nul(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(r'{"input": "a\u0000b", "target": "x"}', "utf-8")
    with pytest.raises(ValueError, match="line 1: field 'input' holds the character NUL"):
        texts_of_a_task(tmp_path / "f.jsonl")
