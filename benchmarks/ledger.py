"""What it takes to rebuild the state of a search from its ledger.

    python benchmarks/ledger.py [--candidates 10000] [--keep DIR]

Writes the ledger of a search that was killed as late as possible after it last folded its parts (a
row, a rung and a half and a decision and a half for each candidate, one part each), then begins the
next attempt in a fresh process. Prints the seconds until it knows where the search stands, the
memory that the state takes, and the most that was in use, beyond what was there before.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from cluster.attempts import hold
from cluster.messages import rung_part
from cluster.replay import replay
from cluster.tune_adapter import FOLD_EVERY, Recorder
from evaluators.ledger import Ledger
from evaluators.snapshot import begin
from search.candidate import Candidate, Prompt
from search.halving import Halving
from search.rungs import Rung


def candidates_of(number: int) -> list[Candidate]:
    """Return `number` candidates."""
    return [
        Candidate(task="none", model="m", prompt=Prompt(instruction=str(i))) for i in range(number)
    ]


def finished(candidates: list[Candidate]) -> Iterator[tuple[Candidate, dict[str, Any]]]:
    """Yield rungs until one more would be folded: every second candidate reaches another one."""
    rng = random.Random(0)  # noqa: S311 - scores of a benchmark
    total = len(candidates) * 3 // 2 // FOLD_EVERY * FOLD_EVERY + FOLD_EVERY - 1
    rungs = [(c, r) for i, c in enumerate(candidates) for r in range(1 + i % 2)]
    rungs += [(c, 2) for c in candidates]
    for candidate, rung in rungs[:total]:
        yield (
            candidate,
            {
                "candidate": candidate.id,
                "rung": rung,
                "split": "search",
                "num_examples": 64,
                "score": rng.random(),
                "program_bits": rng.randrange(3000, 30000),
                "payload_bits": rng.randrange(30000),
                "program": f"{rng.getrandbits(256):064x}",
                "base_digest": "0" * 64,
                "worker": "m-0",
                "seconds": rng.random(),
                "attempt": 1,
                "finished_at": datetime.now(UTC),
            },
        )


def write(folder: Path, number: int) -> int:
    """Write the ledger of the first attempt and return its number of decisions."""
    candidates = candidates_of(number)
    with hold(folder):
        ledger = Ledger(folder, 1)
        halving = Halving(num_rungs=3, eta=2)
        models = {candidate.id: candidate.model for candidate in candidates}
        recorder = Recorder(halving, ledger, models, "program", lambda *_: None)
        written, decisions = set(), 0
        for candidate, row in finished(candidates):
            if candidate.id not in written:
                written.add(candidate.id)
                about = {"candidate": candidate.id, "spec": candidate.canonical(), "model": "m"}
                ledger.write("candidates", candidate.id, [about])
            ledger.write("rungs", rung_part(candidate.id, Rung(row["rung"], 1, 1)), [row])
            recorder.decide(row)
            decisions += 1
    return decisions


def rebuild(folder: Path, number: int) -> dict[str, Any]:
    """Begin the next attempt and return what that took."""
    candidates = candidates_of(number)
    with tempfile.TemporaryDirectory() as scratch:
        # What the libraries take once is not a matter of candidates.
        small = Path(scratch) / "run" / "ledger"
        write(small, 10)
        with hold(small) as attempt:
            begin(small, attempt)
            replay(Ledger(small, attempt), candidates, Halving(num_rungs=3, eta=2), "program")
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.monotonic()
    with hold(folder) as attempt:
        begin(folder, attempt)
        begun_s = time.monotonic() - began
        state = replay(Ledger(folder, attempt), candidates, Halving(num_rungs=3, eta=2), "program")
        seconds = time.monotonic() - began
    gc.collect()
    after = process.memory_info().rss
    return {
        "seconds": round(seconds, 2),
        "seconds_to_begin": round(begun_s, 2),
        "decisions_replayed": state.order,
        "state_bytes_per_candidate": (after - before) // number,
        "peak_bytes_per_candidate": (_peak_bytes() - before) // number,
    }


def _peak_bytes() -> int:
    # Not from getrusage: a new process inherits the peak of the one that started it.
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    """Print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--rebuild", type=Path, metavar="DIR", help="only rebuild from this ledger")
    args = parser.parse_args()
    if args.rebuild:
        print(json.dumps(rebuild(args.rebuild, args.candidates)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run" / "ledger"
        # Waiting for the disk is no part of what is measured.
        os.fsync = lambda _: None
        began = time.monotonic()
        decisions = write(folder, args.candidates)
        written_s = time.monotonic() - began
        num_files = sum(path.is_file() for path in folder.rglob("*"))
        command = [sys.executable, __file__, "--candidates", str(args.candidates), "--rebuild"]
        figures = [
            json.loads(subprocess.run([*command, folder], check=True, capture_output=True).stdout)
            for _ in range(2)
        ]
        print(
            json.dumps(
                {
                    "candidates": args.candidates,
                    "decisions": decisions,
                    "files_when_killed": num_files,
                    "seconds_to_write_a_decision": round(written_s / decisions, 4),
                    "after_a_kill": figures[0],
                    "once_more": figures[1],
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
