"""What a look at a running search costs that `status --watch` takes every two seconds.

    python benchmarks/watching.py [--candidates 3000]

Writes the ledger of a search just before it folds its parts, as `benchmarks/ledger.py` does, then
looks at it as a watch does: the first time, again with nothing new, and again after each of some
rungs that were finished meanwhile. Prints the seconds of each and the files that were read.
"""

import argparse
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

from ledger import SWEEP, candidate_of, record_of, write

from kilobit.cluster.cli.status import WatchedRun, view
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger import ledger
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.records import CandidateRecord, DecisionRecord, RungRecord

_LOOKS = 20


def main() -> None:
    """Print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=3_000)
    args = parser.parse_args()
    # Waiting for the disk is no part of what is measured.
    os.fsync = lambda _: None
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        decisions = write(run / "ledger", args.candidates)
        manifest = {"sweep": load_sweep(SWEEP).model_dump(mode="json"), "sweep_folder": "."}
        (run / "run.json").write_text(json.dumps(manifest | {"attempts": [1]}), "utf-8")
        figures = {"candidates": args.candidates, "decisions": decisions, **looks(run)}
        print(json.dumps(figures, indent=1))


def looks(run: Path) -> dict[str, Any]:
    """Return what looks at a run cost."""
    read = counted_reads()
    began = time.monotonic()
    watch = WatchedRun(run)
    watch.look()
    first_s, first_files = time.monotonic() - began, len(read)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    idle, shown, fresh = [], [], []
    ledger, rng = Ledger(run / "ledger", 1), random.Random(1)  # noqa: S311 - scores of a benchmark
    read.clear()
    for number in range(_LOOKS):
        began = time.monotonic()
        watch.look()
        idle.append(time.monotonic() - began)
        began = time.monotonic()
        console.print(view(watch, console))
        shown.append(time.monotonic() - began)
        candidate = candidate_of(-1 - number, "pretrained")
        record = record_of(candidate, 0, rng)
        about = CandidateRecord(
            candidate=candidate.id,
            task=candidate.task,
            model=candidate.model,
            regime=candidate.model,
            family=candidate.family,
            position=10**6 + number,
        )
        ledger.write(CandidateRecord, candidate.id, [about])
        ledger.write(RungRecord, record.part, [record])
        decision = DecisionRecord(candidate=candidate.id, rung=0, decision="stop", attempt=1)
        ledger.write(DecisionRecord, record.part, [decision])
        began = time.monotonic()
        watch.look()
        fresh.append(time.monotonic() - began)
    return {
        "first_look_s": round(first_s, 3),
        "files_of_the_first_look": first_files,
        "look_without_news_s": round(statistics.median(idle), 4),
        "look_after_a_rung_s": round(statistics.median(fresh), 4),
        "files_of_a_look_after_a_rung": len(read) / _LOOKS,
        "table_s": round(statistics.median(shown), 4),
    }


def counted_reads() -> list[Path]:
    """Return a list to which each file is added that is read from now on."""
    files: list[Path] = []
    inner = ledger.read_parquet

    def read(path: Path, *rest: Any) -> Any:
        files.append(path)
        return inner(path, *rest)

    ledger.read_parquet = read  # type: ignore[assignment]
    return files


if __name__ == "__main__":
    main()
