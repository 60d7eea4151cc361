"""Hostile names of runs, sweep files and output folders, and hostile values in rows of runs."""

import shutil
from pathlib import Path

import pyarrow as pa

from tests.hostile.case import Case, Maker, Place, cases
from tests.hostile.run_folders import BELL, column

MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
COMMAND = "$(touch executed)`touch executed`;touch executed"


def a_run(name: str, *words: str) -> Maker:
    """Return what runs a command on a run of a name; the name stands for RUN in the words."""

    def make(place: Place) -> list[str]:
        # A name with a slash would be a path.
        shutil.copytree(place.finished, place.here / name)
        return [name if word == "RUN" else word for word in words]

    return make


def a_sweep(name: str, *words: str) -> Maker:
    """Return what runs a command on a sweep file of a name, which stands for SWEEP in the words."""

    def make(place: Place) -> list[str]:
        place.sweep()
        Path(place.here / "sweep.yaml").rename(place.here / name)
        return [name if word == "SWEEP" else word for word in words]

    return make


IMAGE = "kubernetes.image=x", "kubernetes.claim=runs"
SHOWN = {
    "front of a run that is a command": a_run(COMMAND, "front", "RUN"),
    "front of a run with an escape sequence": a_run(BELL, "front", "RUN"),
    "front of a run with a line end": a_run("a\nkilobit: all is well", "front", "RUN"),
    "status of a run with quotes": a_run("a'b\"c\\", "status", "RUN"),
    "status of a run with an escape sequence": a_run("\x1b[2J\x9b", "status", "RUN"),
    "report of a run of markup": a_run(MARKUP.replace("/", ""), "report", "RUN"),
    "report of a run of rich markup": a_run("[red]x[link=file:x]", "report", "RUN"),
    "report of a run with half of a letter": a_run("a\udcff", "report", "RUN"),
    "aggregate of a run that is a command": a_run(COMMAND, "aggregate", "RUN", "-o", "all"),
    "aggregate of a run of SQL": a_run("x'; DROP TABLE rungs; --", "aggregate", "RUN", "-o", "all"),
    "aggregate into a folder with a line end": a_run("run", "aggregate", "RUN", "-o", "a\nb"),
    "front as JSON of a run with an escape sequence": a_run(BELL, "front", "RUN", "--json"),
    "results of a run that is a command": a_run(COMMAND, "results", "RUN"),
    "slurm with a sweep that is a command": a_sweep(COMMAND, "slurm", "SWEEP", "--print"),
    "slurm with a sweep of quotes": a_sweep("a'b\"c.yaml", "slurm", "SWEEP", "--print"),
    "slurm into a folder that is a command": a_sweep(
        "s.yaml", "slurm", "SWEEP", "--print", "--out", f"out/{COMMAND}"
    ),
    "kubernetes with a sweep that is a command": a_sweep(
        COMMAND, "kubernetes", "SWEEP", "--print", *IMAGE
    ),
    "kubernetes with a sweep of quotes and braces": a_sweep(
        "a'b\"{{x}}: - &a *a.yaml", "kubernetes", "SWEEP", "--print", *IMAGE
    ),
    "a dry run of a sweep with an escape sequence": a_sweep(BELL, "run", "SWEEP", "--dry-run"),
    "a candidate that is an escape sequence": column("front", "candidates", "family", BELL),
    "a worker that is an escape sequence": column("status", "rungs", "worker", BELL),
    "an error that is an escape sequence": column("status", "rungs", "error", BELL),
    "a program that is an escape sequence": column("front", "rungs", "program", BELL),
    "a label of markup": column("report", "candidates", "regime", MARKUP),
    "an output of markup": column("report", "predictions", "output", MARKUP),
    "a spec of markup": column("report", "candidates", "spec", MARKUP),
    "a score of NaN": column("front", "rungs", "score", float("nan")),
    "a score of 10^300": column("report", "rungs", "score", 1e300),
    "bits below 0": column("front", "rungs", "program_bits", -(1 << 62)),
    "a rung of 10^9": column("status", "rungs", "rung", pa.scalar(10**9, pa.int32()).as_py()),
    "an attempt below 0": column("report", "rungs", "attempt", -5),
    "seconds that are infinite": column("status", "rungs", "seconds", float("inf")),
}
CASES: list[Case] = cases("name or row", SHOWN, frozenset({0, 1, 2}))
