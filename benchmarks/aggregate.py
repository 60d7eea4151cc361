"""What it takes to merge large runs into one data set, and to show what is in many rows.

    python benchmarks/aggregate.py [--folder DIR] [--files 400] [--candidates 100000]

Writes four runs with 20 million predictions in 400 files of 50,000 rows (some 0.6 GB in DIR, a
temporary folder by default), of which a quarter of the last three repeats the first one's, and one
score in a thousand of those says something else. Then a run of 100,000 candidates that all
completed ten rungs (a million rows), folded as an attempt leaves it. Seeds are fixed.

Prints the seconds of each whole command in a fresh process, and the most memory that it held.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from kilobit.cluster.runs.folder import RunFolder, create_run
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.ledger.fencing import Accepted
from kilobit.evaluators.ledger.parts import PART, SCHEMA_VERSION, TABLES
from kilobit.evaluators.ledger.storage import write_whole
from kilobit.search.programs.recipe import Recipe
from kilobit.search.records import rung_part

NUM_RUNS = 4
ROWS_A_FILE = 50_000
EXAMPLES = 500
REPEATED = 0.25
CHANGED = 0.001
NUM_RUNGS = 10
SWEEP = Path(__file__).parent / "recorded.yaml"


def hex_ids(start: int, number: int) -> list[str]:
    """Return ids as candidates have them."""
    rng = np.random.default_rng([start, 1])
    return [f"{value:016x}" for value in rng.integers(0, 1 << 63, number)]


def write_table(path: Path, columns: dict[str, Any], parts: pa.Array) -> None:
    """Write rows of a table as a file of a ledger; other columns are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = TABLES[path.parent.name]
    number = len(parts)
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(number, field.type)
        for field in schema
    ]
    table = pa.table([*arrays, parts], schema=schema.append(PART))
    table = table.replace_schema_metadata({"kilobit_schema": SCHEMA_VERSION})
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def write_predictions(path: Path, number: int, rng: np.random.Generator, *, changed: bool) -> None:
    """Write the predictions of a hundred candidates on the same examples.

    The same number gives the same rows, but for a few scores where they are changed.
    """
    own = np.random.default_rng([number, 2])
    ids = hex_ids(number, ROWS_A_FILE // EXAMPLES)
    answers: npt.NDArray[np.int64] = own.integers(0, 1_000_000, ROWS_A_FILE)
    scores = own.integers(0, 2, ROWS_A_FILE).astype(np.float64)
    if changed:
        positions = rng.random(ROWS_A_FILE) < CHANGED
        scores[positions] = 1 - scores[positions]
    columns = {
        "candidate": np.repeat(ids, EXAMPLES),
        "rung": np.full(ROWS_A_FILE, 2),
        "split": pa.repeat("search", ROWS_A_FILE),
        "example": np.tile([f"example-{i}" for i in range(EXAMPLES)], len(ids)),
        "output": [f"so there are {value} of them in all" for value in answers.tolist()],
        "score": scores,
    }
    write_table(path, columns, pa.repeat(path.name.split(".")[0], ROWS_A_FILE))


def write_runs(folder: Path, num_files: int) -> list[Path]:
    """Write the runs with many predictions and return their folders."""
    rng = np.random.default_rng(0)
    each = num_files // NUM_RUNS
    paths = []
    for run in range(NUM_RUNS):
        paths.append(folder / f"run-{run}")
        with create_run(load_sweep(SWEEP, [f"seed={run}"]), SWEEP, paths[-1]) as made:
            for position in range(each):
                repeated = run > 0 and position < REPEATED * each
                number = position if repeated else run * each + position
                file = made.path / "ledger" / "predictions" / f"bulk-{position:04}.a1.parquet"
                assert isinstance(file, Path)
                write_predictions(file, number, rng, changed=repeated)
    return paths


def write_rungs(folder: Path, num_candidates: int) -> Path:
    """Write a run whose candidates have completed all rungs and return its folder."""
    found = load_sweep(SWEEP)
    rungs = found.rungs.model_copy(update={"count": NUM_RUNGS, "eta": 2})
    sweep: Sweep = found.model_copy(update={"rungs": rungs})
    path = folder / "many"
    with create_run(sweep, SWEEP, path) as run:
        write_folded(run, num_candidates)
    return path


def write_folded(run: RunFolder, number: int) -> None:
    """Write candidates, rungs and programs as a later attempt finds them."""
    rng, ids = np.random.default_rng(3), np.array(hex_ids(1_000_000, number))
    labels = [model.label for model in run.sweep.base_models]
    ladder = run.sweep.rungs.ladder()
    ledger = run.path / "ledger"
    assert isinstance(ledger, Path)
    name = "snapshot.a2.k0.parquet"
    model = np.array(labels)[np.arange(number) % len(labels)]
    text = pa.array(ids)
    about = {"candidate": text, "task": pa.repeat("recorded", number), "model": model,
             "regime": model, "family": pa.repeat("lora", number),
             "spec": pa.repeat("{}", number)}  # fmt: skip
    write_table(ledger / "candidates" / name, about, text)
    rung = np.tile(np.arange(len(ladder)), number)
    candidate = np.repeat(ids, len(ladder))
    bits = np.repeat(rng.integers(3000, 100_000, number), len(ladder)) * 8
    part = list(map(rung_part, candidate.tolist(), rung.tolist()))
    rows = {
        "candidate": candidate,
        "rung": rung,
        "split": pa.repeat("search", len(rung)),
        "num_examples": np.array([each.num_examples for each in ladder])[rung],
        "score": rng.random(len(rung)),
        "lower": rng.random(len(rung)),
        "upper": rng.random(len(rung)),
        "program_bits": bits,
        "payload_bits": bits - 3000,
        "program": candidate,
        "seconds": rng.random(len(rung)),
        "attempt": np.ones(len(rung)),
    }
    write_table(ledger / "rungs" / name, rows, pa.array(part))
    recipe = Recipe(question="{input}", batch_size=8, max_new_tokens=8).canonical()
    programs = {"candidate": text, "rung": np.full(number, NUM_RUNGS - 1), "program": text,
                "program_bits": bits[:: len(ladder)], "script": pa.repeat(b"0" * 400, number),
                "payload": pa.repeat(b"", number), "codecs": pa.repeat("{}", number),
                "recipe": pa.repeat(recipe, number)}  # fmt: skip
    write_table(ledger / "programs" / name, programs, pa.array(part[NUM_RUNGS - 1 :: NUM_RUNGS]))
    files = {table: [name] for table in ("candidates", "rungs", "programs")}
    write_whole(ledger / "attempts" / "0002.json", b"{}")
    accepted = Accepted(2, 0, files)
    write_whole(ledger / accepted.path, accepted.content())


def measured(*words: str | Path) -> dict[str, Any]:
    """Run a command in a fresh process and return its seconds and its most memory."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--child", *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - began
    peak, processor_s = done.stderr.split()[-2:]
    return {
        "seconds": round(seconds, 1),
        "processor_s": float(processor_s),
        "peak_gb": round(int(peak) / 1e6, 2),
        # What else the machine did: seconds mean little where this is above its cores.
        "load": round(os.getloadavg()[0], 1),
    }


def child(words: list[str]) -> None:
    """Run one command here and say how much memory (kB) and processor time (s) it took."""
    from kilobit import launch

    status = launch.main(words)
    # Not from getrusage: a new process inherits the peak of the one that started it.
    text = Path("/proc/self/status").read_text("ascii")
    peak = text.split("VmHWM:")[1].split()[0]
    print(peak, round(time.process_time(), 1), file=sys.stderr)
    sys.exit(status)


def size_of(folder: Path) -> float:
    """Return the gigabytes of a folder."""
    return round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e9, 2)


def main() -> None:
    """Print all figures as JSON."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    parser.add_argument("--files", type=int, default=400, help="of predictions")
    parser.add_argument("--candidates", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        began = time.monotonic()
        runs = write_runs(folder, args.files)
        many = write_rungs(folder, args.candidates)
        figures: dict[str, Any] = {
            "predictions": args.files * ROWS_A_FILE,
            "gb_of_runs": size_of(folder),
            "seconds_to_write_them": round(time.monotonic() - began, 1),
            "aggregate": measured("aggregate", *runs, "-o", folder / "all"),
        }
        about = json.loads((folder / "all" / "dataset.json").read_bytes())
        figures["rows_kept"] = about["rows"]
        figures["gb_of_data_set"] = size_of(folder / "all")
        figures["aggregate_one_more"] = measured("aggregate", many, "-o", folder / "front")
        figures["front_of_run"] = measured("front", many)
        figures["report_of_run"] = measured("report", many, "-o", folder / "run.html")
        figures["report_of_data_set"] = measured(
            "report", folder / "front", "-o", folder / "set.html"
        )
        figures["front_of_data_set"] = measured("front", folder / "front")
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
