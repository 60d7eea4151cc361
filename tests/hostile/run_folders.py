"""Hostile runs, ledgers and data sets, and programs that come as a folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.case import MODEL, Case, Maker, Place, cases
from tests.hostile.data_files import flipped
from tests.hostile.model_folders import DEEP, link

BELL = "\x1b]0;owned\x07\u202e"


def manifest(command: str, change: Callable[[dict[str, Any]], object]) -> Maker:
    """Return what changes the manifest of a run and runs a command on it."""

    def make(place: Place) -> list[str]:
        file = place.run() / "run.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return [command, "run"]

    return make


def entry(command: str, *keys: str, value: Any) -> Maker:
    """Return what gives an entry of the manifest another value."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return manifest(command, change)


def replaced(command: str, name: str, content: str | bytes) -> Maker:
    """Return what replaces a file of a run, or adds one."""

    def make(place: Place) -> list[str]:
        place.run()
        place.file(f"run/{name}", content)
        return [command, "run"]

    return make


def special(command: str, name: str, create: Callable[[Path], object]) -> Maker:
    """Return what puts something else in place of a file of a run."""

    def make(place: Place) -> list[str]:
        path = place.run() / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        create(path)
        return [command, "run"]

    return make


def rows(command: str, table: str, change: Callable[[pa.Table], pa.Table]) -> Maker:
    """Return what changes the rows of a table of a run, in a file that is sound."""

    def make(place: Place) -> list[str]:
        for path in sorted((place.run() / "ledger" / table).glob("*.parquet")):
            pq.write_table(change(pq.read_table(path, partitioning=None)), path)
        return [command, "run"]

    return make


def column(command: str, table: str, name: str, value: Any) -> Maker:
    """Return what gives a column of a table another value, and so another type."""

    def change(found: pa.Table) -> pa.Table:
        at = found.schema.get_field_index(name)
        assert at >= 0
        return found.set_column(at, name, pa.array([value] * len(found)))

    return rows(command, table, change)


def bytes_of(command: str, table: str, at: int, by: bytes) -> Maker:
    """Return what damages the files of a table."""

    def make(place: Place) -> list[str]:
        for path in sorted((place.run() / "ledger" / table).glob("*.parquet")):
            path.write_bytes(flipped(path.read_bytes(), at, by))
        return [command, "run"]

    return make


MANIFESTS = {
    "deep": replaced("front", "run.json", DEEP),
    "a list": replaced("front", "run.json", "[]"),
    "a number": replaced("status", "run.json", "7"),
    "null": replaced("status", "run.json", "null"),
    "nothing": replaced("report", "run.json", ""),
    "NUL": replaced("front", "run.json", b"\0" * 999),
    "no text": replaced("front", "run.json", b"\xff\xfe"),
    "a number of 5,000 digits": replaced("front", "run.json", '{"sweep": ' + "9" * 5000 + "}"),
    "a sweep of null": entry("front", "sweep", value=None),
    "a sweep of a list": entry("status", "sweep", value=[1]),
    "a sweep without a task": entry("status", "sweep", "task", value=None),
    "a task of another kind": entry("front", "sweep", "task", value={"kind": "os.system"}),
    "a name with an escape sequence": entry("front", "sweep", "name", value=BELL),
    "a folder of the sweep of a number": entry("front", "sweep_folder", value=1),
    "a folder of the sweep with NUL": entry("verify", "sweep_folder", value="a\0b"),
    "attempts of a number": entry("status", "attempts", value=3),
    "attempts of text": entry("status", "attempts", value="xx"),
    "attempts of lists": entry("report", "attempts", value=[[1], None, "x"]),
    "a schema of text": entry("resume", "ledger_schema", value="x"),
    "a schema of the future": entry("resume", "ledger_schema", value=10**9),
    "10^9 rungs": entry("front", "sweep", "rungs", "count", value=10**9),
    "targets of NaN": entry("front", "sweep", "targets", value=["NaN", None]),
    "a file of the sweep with an escape sequence": entry("resume", "sweep", "seed", value=BELL),
    "a pipe": special("front", "run.json", os.mkfifo),
    "/dev/zero": special("status", "run.json", link("/dev/zero")),
    "a folder": special("front", "run.json", Path.mkdir),
    "a link to itself": special("resume", "run.json", link("run.json")),
}
TABLES = {
    f"{table}: {what} ({command})": make
    for table, command in (
        ("rungs", "front"),
        ("candidates", "status"),
        ("decisions", "report"),
        ("predictions", "aggregate"),
    )
    for what, make in {
        "a footer of 4 GB": bytes_of(command, table, -8, b"\xff\xff\xff\xff"),
        "a footer of noise": bytes_of(command, table, -80, b"\xff" * 60),
        "pages of noise": bytes_of(command, table, 4, b"\xff" * 60),
        "a mark that is none": bytes_of(command, table, -4, b"EVIL"),
    }.items()
    if command != "aggregate"
} | {
    "rungs: a score of text": column("front", "rungs", "score", "high"),
    "rungs: a score of a list": column("front", "rungs", "score", [0.5]),
    "rungs: a rung of text": column("status", "rungs", "rung", "x"),
    "rungs: bits of text": column("front", "rungs", "program_bits", BELL),
    "rungs: a time of text": column("status", "rungs", "finished_at", "never"),
    "rungs: no column": rows("front", "rungs", lambda found: found.select(["rung"])),
    "rungs: 5,000 more columns": rows(
        "front",
        "rungs",
        lambda found: pa.table(
            {name: found[name] for name in found.column_names}
            | {f"c{i}": pa.array([None] * len(found)) for i in range(5000)}
        ),
    ),
    "rungs: a column twice": rows(
        "front", "rungs", lambda found: found.append_column("score", found["score"])
    ),
    "candidates: a name of bytes": column("front", "candidates", "candidate", b"\xff\xfe"),
    "candidates: a spec of a number": column("status", "candidates", "spec", 7),
    "predictions: outputs of numbers": column("report", "predictions", "output", 7),
    "decisions: null": column("status", "decisions", "decision", None),
    "a pipe among the rungs": special("front", "ledger/rungs/x.a1.parquet", os.mkfifo),
    "/dev/zero among the rungs": special("status", "ledger/rungs/x.a1.parquet", link("/dev/zero")),
    "a folder among the rungs": special("front", "ledger/rungs/x.a1.parquet", Path.mkdir),
    "a link to itself among the rungs": special(
        "front", "ledger/rungs/x.a1.parquet", link("x.a1.parquet")
    ),
    "an attempt of 10^30": replaced("front", f"ledger/attempts/{10**30}.json", "{}"),
    "an attempt that is deep": replaced("resume", "ledger/attempts/0001.json", DEEP),
    "an attempt of a list": replaced("status", "ledger/attempts/0001.json", "[]"),
    "an attempt that is a pipe": special("status", "ledger/attempts/0002.json", os.mkfifo),
    "a list of files that is deep": replaced("front", "ledger/accepted/accepted.a9.k0.json", DEEP),
    "a list of files of numbers": replaced(
        "front", "ledger/accepted/accepted.a9.k0.json", '{"files": {"rungs": 7}}'
    ),
    "a list of files elsewhere": replaced(
        "front", "ledger/accepted/accepted.a9.k0.json",
        '{"files": {"rungs": ["../../../../etc/passwd", "/dev/zero"]}}',
    ),
    "a list of files that is a pipe": special(
        "front", "ledger/accepted/accepted.a9.k0.json", os.mkfifo
    ),
    "a scorecard of noise": replaced(
        "report", "scorecard.parquet", b"PAR1" + b"\xff" * 50 + b"PAR1"
    ),
    "a scorecard that is a pipe": special("report", "scorecard.parquet", os.mkfifo),
    "a scorecard of another table": replaced("report", "scorecard.parquet", b""),
}  # fmt: skip


def data_set(command: str, content: Any, **sources: Any) -> Maker:
    """Return what reads a data set with a manifest of this content."""

    def make(place: Place) -> list[str]:
        raw = content if isinstance(content, str) else json.dumps(content)
        place.file("set/dataset.json", raw)
        out = ["-o", "all"] if command == "aggregate" else []
        return [command, "set", *out]

    return make


SOURCE = {
    "name": "a", "kind": "run", "path": "x", "identity": "i", "digest": "d", "num_bytes": 1,
    "attempts": 1, "about": {}, "read_at": "now", "rows": {},
}  # fmt: skip


def sources(*changes: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a data set whose sources are changed."""
    from kilobit.evaluators.ledger.parts import SCHEMA_VERSION

    return {"ledger_schema": SCHEMA_VERSION, "sources": [SOURCE | one for one in changes]}


SETS = {
    "deep": data_set("front", DEEP),
    "a list": data_set("front", []),
    "null": data_set("report", None),
    "no sources": data_set("front", sources()),
    "sources of a number": data_set("aggregate", {"ledger_schema": 1, "sources": 7}),
    "a schema of a list": data_set("front", {"ledger_schema": [], "sources": []}),
    "a name that leaves": data_set("front", sources({"name": "../../etc/x"})),
    "a name of nothing": data_set("front", sources({"name": ""})),
    "a name with an escape sequence": data_set("front", sources({"name": BELL})),
    "a name twice": data_set("aggregate", sources({}, {})),
    "a kind that is none": data_set("front", sources({"kind": BELL})),
    "rows of 10^30": data_set("front", sources({"rows": {"rungs": 10**30}})),
    "rows of a table elsewhere": data_set("aggregate", sources({"rows": {"../x": 1}})),
    "about nothing": data_set("report", sources({})),
    "a sweep of a list": data_set("front", sources({"about": {"sweep": []}})),
    "a number of 5,000 digits": data_set("front", '{"ledger_schema": ' + "9" * 5000 + "}"),
    "a pipe": lambda place: (
        place.file("set/x", ""), os.mkfifo(place.here / "set" / "dataset.json")
    ) and ["front", "set"],
    "/dev/zero": lambda place: (
        place.file("set/x", ""), (place.here / "set" / "dataset.json").symlink_to("/dev/zero")
    ) and ["front", "set"],
}  # fmt: skip


def program(change: Callable[[Place, Path], object], *more: str, model: str = str(MODEL)) -> Maker:
    """Return what verifies the folder of a program that is changed."""

    def make(place: Place) -> list[str]:
        from tests.hostile.model_folders import loaded

        loaded(place)
        change(place, place.here / "p")
        return ["verify", "p", "--model", model, *more]

    return make


def described(*keys: str, value: Any) -> Maker:
    """Return what gives an entry of a program's manifest another value."""

    def change(_: Place, folder: Path) -> None:
        file = folder / "manifest.json"
        content = found = json.loads(file.read_text())
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value
        file.write_text(json.dumps(content))

    return program(change)


def in_it(name: str, content: str | bytes) -> Maker:
    """Return what replaces a file of a program."""
    return program(lambda place, _: place.file(f"p/{name}", content))


def instead(name: str, create: Callable[[Path], object]) -> Maker:
    """Return what puts something else in place of a file of a program."""

    def change(_: Place, folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        create(folder / name)

    return program(change)


def export(make: Maker) -> Maker:
    """Return what exports the adapter of a program's folder instead of running it."""

    def made(place: Place) -> list[str]:
        make(place)
        return ["export", "p", "--peft", "out", "--model", str(MODEL)]

    return made


PROGRAMS = {
    "a manifest that is deep": in_it("manifest.json", DEEP),
    "a manifest of a list": in_it("manifest.json", "[]"),
    "a manifest of NUL": in_it("manifest.json", b"\0" * 99),
    "a format of text": described("format", value=BELL),
    "digests of a list": described("sha256", value=[]),
    "a digest of a number": described("sha256", "program.py", value=7),
    "a digest of a base model of a list": described("base_digest", value=[BELL]),
    "parts of a list": described("parts", value=[1]),
    "parts of lists": described("parts", value={"weights": [], "x": None}),
    "a recipe of null": described("recipe", value=None),
    "a recipe of a list": described("recipe", value=[]),
    "a question of a format string": described("recipe", "question", value="{0.__class__}"),
    "10^20 new tokens": described("recipe", "max_new_tokens", value=10**20),
    "a batch of 0": described("recipe", "batch_size", value=0),
    "a device with an escape sequence": described("recipe", "device", value=BELL),
    "steps that are none": described("recipe", "postprocess", value=["os.system", BELL]),
    "an adapter of 10^18 numbers": described(
        "recipe", "adapter",
        value={"method": "lora", "config": "LoraConfig", "shapes": [[10**9, 10**9]]},
    ),
    "an adapter of another class": described(
        "recipe", "adapter", value={"method": "lora", "config": "os.system", "shapes": [[1, 2]]}
    ),
    "a prompt of a codec that is none": described("recipe", "prompt", value={"codec": "pickle"}),
    "examples that are deep": in_it("examples.jsonl", DEEP),
    "examples of lists": in_it("examples.jsonl", "[]\n"),
    "examples of numbers": in_it("examples.jsonl", '{"input": 1, "output": {}}\n'),
    "no examples": in_it("examples.jsonl", ""),
    "examples of half of a surrogate pair": in_it(
        "examples.jsonl", '{"input": "\\ud800", "output": "x"}\n'
    ),
    "other code": in_it("program.py", "import pathlib\npathlib.Path('executed').touch()\n"),
    "another payload": in_it("payload.bin", b"\xff" * 999),
    "a pipe for a manifest": instead("manifest.json", os.mkfifo),
    "a pipe for code": instead("program.py", os.mkfifo),
    "/dev/zero for a payload": instead("payload.bin", link("/dev/zero")),
    "/dev/zero for examples": instead("examples.jsonl", link("/dev/zero")),
    "a terabyte for a payload": instead(
        "payload.bin", lambda path: (path.touch(), os.truncate(path, 1 << 40))
    ),
    "a folder for code": instead("program.py", Path.mkdir),
    "a link to itself for code": instead("program.py", link("program.py")),
    "modules that shadow imports": program(
        lambda place, _: [
            place.file(f"p/{name}.py", "import pathlib\npathlib.Path('executed').touch()\n")
            for name in ("json", "torch", "sitecustomize", "transformers", "encodings")
        ]
    ),
    "a program that is none": lambda place: (place.here / "p").mkdir() or ["verify", "p"],
    "export: a manifest that is deep": export(in_it("manifest.json", DEEP)),
    "export: an adapter of 10^18 numbers": export(
        described(
            "recipe", "adapter",
            value={"method": "lora", "config": "LoraConfig", "shapes": [[10**9, 10**9]]},
        )
    ),
    "export: a payload of noise": export(in_it("payload.bin", b"\xff" * 999)),
    "export: a pipe for a payload": export(instead("payload.bin", os.mkfifo)),
}  # fmt: skip
CASES: list[Case] = [
    *cases("run: manifest", MANIFESTS, frozenset({0, 1, 2})),
    *cases("run: ledger", TABLES, frozenset({0, 1, 2})),
    *cases("data set", SETS),
    *cases("program folder", PROGRAMS),
]
