"""Hostile data of tasks, published points to import or draw, and data sets of a library."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.case import Case, Maker, Place, cases
from tests.hostile.model_folders import link

TOUCH = "!!python/object/apply:os.system ['touch executed']"
OWN = {"kind": "jsonl", "name": "mine", "data": "d.jsonl", "metric": "exact_match"}
LINE = '{"input": "a", "target": "b"}\n'
DEEP = "[" * 100_000


def lines(content: str | bytes, **task: Any) -> Maker:
    """Return what checks a sweep on JSON Lines of this content."""

    def make(place: Place) -> list[str]:
        place.file("d.jsonl", content)
        return place.sweep(task=OWN | task)

    return make


def many(change: Callable[[int], dict[str, Any]], **task: Any) -> Maker:
    """Return what checks a sweep on 900 lines."""
    good = [{"input": f"question {i}", "target": f"{i}"} | change(i) for i in range(900)]
    return lines("".join(json.dumps(one) + "\n" for one in good), **task)


def special(create: Callable[[Path], object]) -> Maker:
    """Return what checks a sweep on a file that is no regular one."""

    def make(place: Place) -> list[str]:
        create(place.here / "d.jsonl")
        return place.sweep(task=OWN)

    return make


def value(text: str) -> Maker:
    """Return what checks a sweep on a line with this target."""
    return lines(LINE + f'{{"input": "a", "target": {text}}}\n')


JSONL = {
    "targets of commas": many(lambda i: {"target": "," * 5000 + "x"}, metric="number"),
    "targets of 10^300": many(lambda i: {"target": f"{i}e300 x"}, metric="number"),
    "brackets": lines(DEEP + "\n"),
    "braces": lines('{"a":' * 100_000 + "\n"),
    "brackets that are closed": value("[" * 90_000 + "]" * 90_000),
    "half of a surrogate pair": value('"\\ud800"'),
    "half of a surrogate pair as a key": lines('{"\\udfff": 1, "input": "a", "target": "b"}\n'),
    "bytes of a surrogate": lines(b'{"input": "\xed\xa0\x80", "target": "b"}\n'),
    "bytes that are too long": lines(b'{"input": "\xc0\xaf", "target": "b"}\n'),
    "a key twice": lines('{"input": "a", "input": "c", "target": "b"}\n'),
    "100,000 keys, one twice": lines(
        "{" + ",".join(f'"k{i}": 1' for i in range(100_000)) + ', "k0": 2}\n'
    ),
    "a number of 4,000 digits": value("-" + "9" * 4000 + "x"),
    "a number of 5,000 digits": value("9" * 5000),
    "a number of a million digits": value("9" * 1_000_000),
    "a fraction of a million digits": value("0." + "9" * 1_000_000 + "]"),
    "an exponent of nine digits": value("1e999999999,"),
    "NaN": value("NaN"),
    "infinity": value("-Infinity"),
    "null": value("null"),
    "a list": value('["x"]'),
    "an object": value('{"__class__": "os.system"}'),
    "NUL bytes": lines(b"\0" * 100_000),
    "UTF-16": lines(LINE.encode("utf-16")),
    "a mark of order in the middle": lines(LINE + "\ufeff" + LINE),
    "other line ends": lines(LINE.replace("\n", "\u2028") * 9),
    "carriage returns": lines(LINE.replace("\n", "\r") * 9),
    "one line of 20 MB": lines('{"input": "' + "x" * 20_000_000),
    "a million empty lines": lines("\n" * 1_000_000),
    "white space alone": value('" \\u00a0\\u2003 "'),
    "text after the value": lines(LINE[:-1] + LINE),
    "a name that is an escape sequence": lines('{"\\u001b[2J": 1}\n'),
    "a value that is an escape sequence": lines(
        json.dumps({"input": "a", "target": "\x1b]0;owned\x07"}) + "\n", metric="number"
    ),
    "a pickle": lines(b"\x80\x02cos\nsystem\nU\x0etouch executedq\x00\x85q\x01R."),
    "an archive": lines(b"\x1f\x8b\x08\x00" + bytes(100)),
    "a terabyte of zeros": lambda place: [
        word for word in place.sweep(task=OWN) if place.sparse("d.jsonl", 1 << 40)
    ],
    "a pipe": special(os.mkfifo),
    "/dev/zero": special(link("/dev/zero")),
    "/dev/stdin": special(link("/dev/stdin")),
    "/proc/kmsg": special(link("/proc/kmsg")),
    "/proc/self/pagemap": special(link("/proc/self/pagemap")),
    "a link to itself": special(link("d.jsonl")),
    "a folder": special(Path.mkdir),
    "a split that repeats another": lambda place: [
        word
        for word in place.sweep(
            task=OWN | {"data": None, "files": dict.fromkeys(("train", "search", "sealed"), "d")}
        )
        if place.file("d", LINE)
    ],
    "fractions below nothing": lines(LINE, fractions={"search": -1.0}),
    "a target after a heavy pattern": many(lambda _: {}, target_after="(a+)+$" * 1000),
    "a metric that is none": lines(LINE, metric="os.system"),
    "a tokenizer that is none": many(lambda _: {}, metric="bleu", tokenizer="evil"),
}
ACCEPTED = {
    "inputs of heavy patterns": many(lambda i: {"input": f"{i} " + "a" * 2000 + "!"}),
    "targets of heavy patterns": many(lambda i: {"target": str(i) + "1" * 4000}, metric="number"),
    "format strings": many(lambda i: {"input": f"{i} {{0.__class__}} %s {{input}}"}),
    "markup": many(lambda i: {"input": f"{i} <script>x</script> [red]x[/red]"}),
    "escape sequences": many(lambda i: {"input": f"{i} \x1b[2J\u202e"}),
    "the longest question": many(lambda i: {"input": f"{i} " + "word " * 500}),
}


def points(
    name: str, content: str | bytes, *more: str, mapped: str = "score=s,payload_bits=b"
) -> Maker:
    """Return what imports published points from a file."""

    def make(place: Place) -> list[str]:
        place.file(name, content)
        return ["aggregate", "--import", name, "--map", mapped, "-o", "all", *more]

    return make


def no_file(name: str, create: Callable[[Path], object]) -> Maker:
    """Return what imports published points from a file that is no regular one."""

    def make(place: Place) -> list[str]:
        words = list(points(name, "")(place))
        (place.here / name).unlink()
        create(place.here / name)
        return words

    return make


def table(**columns: Any) -> bytes:
    """Return a Parquet file of these columns."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def flipped(content: bytes, at: int, by: bytes) -> bytes:
    """Return a file some bytes of which are others."""
    at %= len(content)
    return content[:at] + by + content[at + len(by) :]


GOOD = table(s=[0.5], b=[80])
POINTS = {
    "a quote that is not closed": points("t.csv", 's,b\n"0.5,80\n'),
    "a cell of a megabyte": points("t.csv", "s,b\n" + "9" * 1_000_000 + ",8\n"),
    "100,000 columns": points("t.csv", ",".join(f"c{i}" for i in range(100_000)) + "\n"),
    "100,000 columns of one name": points("t.csv", ",".join(["c"] * 100_000) + "\n"),
    "100,000 lines that are wrong": points("t.csv", "s,b\n" + "x,y\n" * 100_000),
    "NUL": points("t.csv", "s,b\n0.5,8\0\n"),
    "a score of NaN": points("t.csv", "s,b\nnan,8\n"),
    "a score of 10^400": points("t.csv", "s,b\n1e400,8\n"),
    "bits of 5,000 digits": points("t.csv", "s,b\n0.5," + "9" * 5000 + "\n"),
    "bits of other digits": points("t.csv", "s,b\n0.5,\u0668\u00b2\n"),
    "bits with an underscore": points("t.csv", "s,b\n0.5,1_0_\n"),
    "a column with an escape sequence": points("t.csv", "\x1b[2J,b\n0.5,8\n"),
    "a cell with an escape sequence": points("t.csv", "s,b\n\x1b]0;owned\x07,8\n"),
    "a formula": points("t.csv", "s,b\n=cmd|'/c calc'!A0,8\n"),
    "only a header": points("t.csv", "s,b\n"),
    "nothing": points("t.csv", ""),
    "a pipe": no_file("t.csv", os.mkfifo),
    "a pipe as Parquet": no_file("t.parquet", os.mkfifo),
    "/dev/zero as CSV": no_file("t.csv", link("/dev/zero")),
    "/dev/zero as Parquet": no_file("t.parquet", link("/dev/zero")),
    "deep JSON Lines": points("t.jsonl", DEEP),
    "JSON Lines of lists": points("t.jsonl", "[]\n"),
    "JSON Lines of other types": points("t.jsonl", '{"s": {"x": []}, "b": true}\n'),
    "Parquet of nothing": points("t.parquet", b""),
    "Parquet of marks alone": points("t.parquet", b"PAR1PAR1"),
    "Parquet that is cut": points("t.parquet", GOOD[:-9]),
    "Parquet with a footer of 4 GB": points("t.parquet", flipped(GOOD, -8, b"\xff\xff\xff\xff")),
    "Parquet with a footer of nothing": points("t.parquet", flipped(GOOD, -8, b"\0\0\0\0")),
    "Parquet with a footer of noise": points("t.parquet", flipped(GOOD, -60, b"\xff" * 40)),
    "Parquet with pages of noise": points("t.parquet", flipped(GOOD, 4, b"\xff" * 30)),
    "Parquet of texts": points("t.parquet", table(s=["x"], b=["\x1b[2J"])),
    "Parquet of lists": points("t.parquet", table(s=[[0.5]], b=[[8]])),
    "Parquet of NaN": points("t.parquet", table(s=[float("nan")], b=[8])),
    "Parquet of infinite bits": points("t.parquet", table(s=[0.5], b=[float("inf")])),
    "Parquet of bytes": points("t.parquet", table(s=[b"\xff"], b=[8])),
    "Parquet of 5 million equal rows": points(
        "t.parquet", table(s=pa.repeat(0.5, 5_000_000), b=pa.repeat(8, 5_000_000))
    ),
    "a mapping of 10,000 fields": points("t.csv", "s,b\n", mapped=",".join(["x=y"] * 10_000)),
    "a mapping with a line end": points("t.csv", "s,b\n", mapped="score\n=s,payload_bits=\x1b"),
}  # fmt: skip


def overlay(name: str, content: str | bytes) -> Maker:
    """Return what draws published points over a report."""

    def make(place: Place) -> list[str]:
        place.run()
        place.file(name, content)
        return ["report", "run", "--overlay", name]

    return make


OVERLAYS = {
    "bits of 5,000 digits": overlay("c.csv", "bits,score\n" + "9" * 5000 + ",0.5\n"),
    "a score of NaN": overlay("c.csv", "bits,score\n8,nan\n"),
    "deep JSON Lines": overlay("c.jsonl", DEEP),
    "Parquet of noise": overlay("c.parquet", b"PAR1" + b"\xff" * 99 + b"PAR1"),
    "Parquet of texts": overlay("c.parquet", table(bits=["x"], score=["y"])),
}


def dataset(name: str, content: str | bytes, given: str = "./set") -> Maker:
    """Return what checks a sweep on a data set of the `datasets` library."""

    def make(place: Place) -> list[str]:
        place.file(f"set/{name}", content)
        splits = dict.fromkeys(("train", "search", "sealed"), "train")
        return place.sweep(
            task={
                "kind": "dataset", "name": "x", "metric": "exact_match",
                "dataset": given, "splits": splits,
            }
        )  # fmt: skip

    return make


LIBRARY = {
    "a script": dataset("set.py", "import pathlib\npathlib.Path('executed').touch()\n"),
    "a folder elsewhere": dataset("x.py", "x", "../../etc"),
    "a hub name that leaves the cache": dataset("x.py", "x", "a/../../b"),
    "deep JSON": dataset("train.json", DEEP),
    "Parquet of noise": dataset("train.parquet", b"PAR1" + b"\xff" * 99 + b"PAR1"),
    "Parquet with a footer of 4 GB": dataset("train.parquet", flipped(GOOD, -8, b"\xff" * 4)),
    "a pickle": dataset("train.pkl", b"\x80\x02cos\nsystem\nU\x0etouch executed\x85R."),
    "an archive of webdataset with a pickle": dataset("train.tar", b"x" * 2048),
    "a card with a tag": dataset("README.md", f"---\nx: {TOUCH}\n---\n"),
}  # fmt: skip
CASES: list[Case] = [
    *cases("data: JSON Lines", JSONL),
    *cases("data: accepted", ACCEPTED, frozenset({0})),
    *cases("data: published points", POINTS),
    *cases("data: overlay", OVERLAYS),
    # Data that are not here are not checked by a dry run.
    *cases("data: library", LIBRARY, frozenset({0, 2})),
]
