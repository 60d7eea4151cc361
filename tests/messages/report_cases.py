"""What `report` says."""

import json
from typing import Any

from tests.messages.scene import Case, Scene

OVERLAY = "report {run} --overlay {here}/curve.csv"


def curve(content: str | bytes, name: str = "curve.csv") -> Any:
    """Return what writes a run and published points."""

    def write(scene: Scene) -> None:
        scene.finished()
        scene.file(name, content)

    return write


def two_runs(**changes: Any) -> Any:
    """Return what writes two runs, the second with changes of its sweep."""

    def write(scene: Scene) -> None:
        scene.finished()
        scene.finished("second", **changes)

    return write


def only_of_others(scene: Scene) -> None:
    """Write a data set of imported points alone."""
    scene.file("t.csv", "score,payload_bits\n0.5,80\n")
    from kilobit.launch import main

    words = ["--import", "t.csv", "--map", "score=score,payload_bits=payload_bits"]
    scene.monkeypatch.chdir(scene.here)
    assert main(["aggregate", *words, "-o", str(scene.here / "set")]) == 0


CASES = [
    Case("report", "the following arguments are required: RUN"),
    Case("report {here}/none", "{here}/none holds no run: there is no such folder"),
    Case("report {run} --length words", "argument --length: invalid choice: 'words'"),
    Case(
        "report {run} {here}/second",
        "a report of several runs has no default path: give -o FILE.html",
        given=two_runs(),
    ),
    Case(
        "report {run} -o {here}",
        "-o {here}: that is a folder; give a file such as {here}/report.html",
        given=Scene.finished,
    ),
    Case(
        "report {run} -o {here}/r.pdf",
        "-o {here}/r.pdf: a report is one HTML file: its name ends in .html or .htm",
        given=Scene.finished,
    ),
    Case(
        "report {run} -o {here}/curve.csv/r.html",
        "-o {here}/curve.csv/r.html: can't be written: {here}/curve.csv: Not a directory",
        given=curve(""),
    ),
    Case(
        "report {run} --figures {here}/curve.csv",
        "--figures {here}/curve.csv: can't be written: {here}/curve.csv: Not a directory",
        given=curve(""),
    ),
    Case("report {run} {run} -o {here}/r.html", "{run} is given twice", given=Scene.finished),
    Case(
        "report {run} {here}/second -o {here}/r.html",
        "the runs compare programs differently (run by program bits, second by payload bits): "
        "give --length",
        given=two_runs(length="payload"),
    ),
    Case(
        "results {run} {here}/second",
        "the runs compare programs differently (run by program bits, second by payload bits): "
        "give --length",
        given=two_runs(length="payload"),
    ),
    Case(
        "front {run} --against {here}/second",
        "--against {here}/second: it has no front of the same task and base model by program bits",
        given=lambda scene: (scene.finished(), scene.begun("second")),
    ),
    Case(
        "results {here}/set",
        "there is no run in it, only imported points: `kilobit front` shows them",
        given=only_of_others,
    ),
    Case(
        "report {here}/set -o {here}/r.html --length program",
        "none of the 1 imported points has program bits, and there is no run: give another --len",
        given=only_of_others,
    ),
    Case(
        "report {run}",
        "{run}/scorecard.parquet: ",
        given=lambda scene: scene.file(str(scene.finished().path / "scorecard.parquet"), "x"),
    ),
    Case(
        "report {run} --columns bits=b",
        "--columns belongs to --overlay FILE",
        given=Scene.finished,
    ),
    Case(
        f"{OVERLAY} --columns bits",
        "--columns: 'bits' can't be used: NAME=COLUMN is needed",
        given=Scene.finished,
    ),
    Case(
        f"{OVERLAY} --columns bits=a,bits=b",
        "--columns: bits is given twice",
        given=Scene.finished,
    ),
    Case(OVERLAY, "{here}/curve.csv: No such file or directory", given=Scene.finished),
    Case(
        "report {run} --overlay {here}/curve.txt",
        "{here}/curve.txt: unknown format; the name has to end in one of",
        given=curve("", "curve.txt"),
    ),
    Case(OVERLAY, "{here}/curve.csv: the file holds no points", given=curve("bits,score\n")),
    Case(OVERLAY, "{here}/curve.csv: not UTF-8 at byte 1", given=curve(b"b\xff")),
    Case(
        OVERLAY,
        "{here}/curve.csv, line 1: two columns are called 'bits'",
        given=curve("bits,bits\n1,1\n"),
    ),
    Case(
        OVERLAY,
        "{here}/curve.csv, line 2: 3 values, but the header names 2 columns",
        given=curve("bits,score\n1,1,1\n"),
    ),
    Case(
        OVERLAY,
        "{here}/curve.csv, line 2: no column 'score'; there are 'bits', 'points'",
        given=curve("bits,points\n1,1\n"),
    ),
    Case(
        OVERLAY,
        "{here}/curve.csv, line 2, column 'score': a number from 0 to 1 is needed, found '80'; "
        "divide percentages by 100",
        given=curve("bits,score\n1,80\n"),
    ),
    Case(
        OVERLAY,
        "{here}/curve.csv, line 2, column 'bits': a length in bits of at least 0 is needed, "
        "found 'few'",
        given=curve("bits,score\nfew,0.8\n"),
    ),
    Case(
        "report {run} --overlay {here}/curve.jsonl",
        "{here}/curve.jsonl, line 1: not JSON: ",
        given=curve("{", "curve.jsonl"),
    ),
    Case(
        "report {run} --overlay {here}/curve.jsonl",
        "{here}/curve.jsonl, line 1: a JSON object is needed, found a list",
        given=curve(json.dumps([1]), "curve.jsonl"),
    ),
]
