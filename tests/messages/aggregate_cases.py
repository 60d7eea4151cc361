"""What `aggregate` and `front` say of many runs as one data set."""

import json
from typing import Any

from tests.messages.scene import Case, Scene, no_store

IMPORT = "aggregate --import {here}/t.csv -o {here}/all"
MAPPED = f"{IMPORT} --map score=accuracy,payload_bits=bits"


def a_link(scene: Scene) -> None:
    """Make a link to a folder."""
    (scene.here / "folder").mkdir()
    (scene.here / "all").symlink_to(scene.here / "folder")
    scene.begun()


def table(content: str) -> Any:
    """Return what writes a table of others."""
    return lambda scene: scene.file("t.csv", content)


def data_set(content: Any) -> Any:
    """Return what writes the description of a data set."""
    return lambda scene: scene.file("set/dataset.json", json.dumps(content))


def a_sweep_that_is_none(scene: Scene) -> None:
    """Write a data set whose run has no sweep."""
    scene.finished()
    from kilobit.launch import main

    assert main(["aggregate", str(scene.here / "run"), "-o", str(scene.here / "set")]) == 0
    file = scene.here / "set" / "dataset.json"
    content = json.loads(file.read_text())
    content["sources"][0]["about"]["sweep"] = {}
    file.write_text(json.dumps(content))


def a_mixed_data_set(scene: Scene) -> None:
    """Write a data set with a file of somebody among its rows."""
    scene.finished()
    from kilobit.launch import main

    assert main(["aggregate", str(scene.here / "run"), "-o", str(scene.here / "set")]) == 0
    scene.file("set/rungs/mine.txt", "x")


AGGREGATE = [
    Case("aggregate -o {here}/all", "give runs or data sets, or a file by --import"),
    Case(IMPORT, "--import and --map go together: a file, and which column is which field"),
    Case(
        "aggregate {run} -o {here}/file/all",
        "-o {here}/file/all: can't be written: {here}/file: Not a directory",
        given=lambda scene: (scene.begun(), scene.file("file", "x")),
    ),
    Case("aggregate {run} -o s3://bucket/all", "s3://bucket/all: a local path is needed here"),
    Case(
        "aggregate {run} -o {here}/all",
        "-o: {here}/all is a file; a data set is a folder",
        given=lambda scene: (scene.begun(), scene.file("all", "x")),
    ),
    Case(
        "aggregate {run} -o {here}/all",
        "-o: {here}/all is a link, which would be replaced; name the folder itself",
        given=a_link,
    ),
    Case(
        "aggregate {run} -o {here}/all",
        "-o: {here}/all holds thesis.tex and is no data set: name a folder that is new, empty",
        given=lambda scene: (scene.begun(), scene.file("all/thesis.tex", "x")),
    ),
    Case("aggregate {run} -o {here}/all", "{run} holds no run: there is no such folder"),
    Case(
        "aggregate {run} -o {here}/set",
        "-o: {here}/set/rungs/mine.txt does not belong to the data set {here}/set and ",
        given=a_mixed_data_set,
    ),
    Case(
        "aggregate s3://bucket/run -o {here}/all",
        "s3://bucket: no answer at http://127.0.0.1:9",
        given=no_store,
    ),
    Case(MAPPED, "{here}/t.csv: No such file or directory"),
    Case(
        MAPPED, "{here}/t.csv: no column 'accuracy' for score; there are 'a'", given=table("a\n1\n")
    ),
    Case(
        MAPPED,
        "{here}/t.csv, line 3: 1 values, but the header names 2 columns",
        given=table("accuracy,bits\n0.5,80\n0.5\n"),
    ),
    Case(f"{IMPORT} --map x", "--map: 'x' is neither FIELD=COLUMN nor FIELD:=VALUE"),
    Case(f"{IMPORT} --map speed=x", "--map: unknown field 'speed'; the fields are "),
    Case(
        f"{IMPORT} --map score=s,payload_bits=b,tsk:=object",
        "--map: unknown field 'tsk'; the fields are task, model",
    ),
    Case(
        "aggregate {run} -o {here}/all --rename task:a=b",
        "--rename and --script-bits belong to --import FILE",
    ),
    Case(
        f"{MAPPED} --rename task=b",
        "--rename: 'task=b' is not FIELD:OLD=NEW, where FIELD is one of task, model",
        given=table("accuracy,bits\n0.5,8\n"),
    ),
    Case(
        f"{MAPPED} --rename task:a=b",
        "--rename task:a: no point of {here}/t.csv has this task",
        given=table("accuracy,bits\n0.5,8\n"),
    ),
    Case(
        f"{MAPPED} --script-bits lora",
        "--script-bits: 'lora' is not FAMILY=BITS",
        given=table("accuracy,bits\n0.5,8\n"),
    ),
    Case(
        f"{MAPPED} --script-bits lora=8",
        "--script-bits lora: no point of {here}/t.csv has this family",
        given=table("accuracy,bits\n0.5,8\n"),
    ),
    Case(
        f"{MAPPED},speed==x",
        "{here}/t.csv: no column 'speed' of --map; there are 'accuracy', 'bits'",
        given=table("accuracy,bits\n0.5,8\n"),
    ),
    Case(
        f"{MAPPED},bits==9",
        "--map score=accuracy,payload_bits=bits,bits==9: it takes no row of {here}/t.csv",
        given=table("accuracy,bits\n0.5,8\n"),
    ),
    Case(
        f"{IMPORT} --map score%=accuracy,payload_bits=bits",
        "{here}/t.csv, line 2, column 'accuracy': a number from 0 to 100 is needed, found '101'",
        given=table("accuracy,bits\n101,8\n"),
    ),
    Case(
        f"{IMPORT} --map score/=accuracy,payload_bits=bits",
        "--map: score/= can't be used: it is for task, model, regime, family, candidate",
    ),
    Case(f"{IMPORT} --map task:=x", "--map: score is needed: a column with numbers from 0 to 1"),
]
FRONT = [
    Case(
        "front {here}/set",
        "{here}/set/dataset.json is not a valid manifest of a data set",
        given=data_set({"sources": []}),
    ),
    Case(
        "front {here}/set",
        "{here}/set/dataset.json: the sweep of run: ",
        given=a_sweep_that_is_none,
    ),
]
CASES = [*AGGREGATE, *FRONT]
