"""What it takes to rebuild the state of a search from its ledger.

    python benchmarks/ledger.py [--candidates 10000] [--keep DIR]

Writes the ledger of a search that was killed as late as possible after it last folded its parts (a
proposal, some rungs and as many decisions for each candidate, one part each), then begins the next
attempt in a fresh process. Prints the seconds until it knows where the search stands, the
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from kilobit.cluster.driver.check import Plan
from kilobit.cluster.driver.recorder import FOLD_EVERY, Recorder
from kilobit.cluster.driver.replay import Replayed, replay
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.runs.lock import lock_run
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.ledger.compaction import begin
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.records import PredictionRecord, ProgramRecord, RungRecord
from kilobit.search.search import Search, make_scheduler

SWEEP = Path(__file__).parent.parent / "examples" / "quickstart.yaml"


class Numbered:
    """Proposes prompts that are numbers, without end."""

    def __init__(self) -> None:
        self._count = 0

    def propose(self, model: str) -> Proposal:
        """Return the next."""
        self._count += 1
        return Proposal(candidate_of(self._count - 1, model), "numbered")

    def observe(self, observation: Observation) -> None:
        """Learn nothing."""


def search_of(sweep: Sweep) -> Search:
    """Return a new search."""
    scheduler = make_scheduler(sweep.scheduler, sweep.rungs)
    return Search(Numbered(), scheduler, "program_bits")


def candidate_of(number: int, model: str) -> Candidate:
    """Return the candidate of a number."""
    return Candidate(task="none", model=model, prompt=Prompt(instruction=str(number)))


def record_of(candidate: Candidate, rung: int, rng: random.Random) -> RungRecord:
    """Return what a candidate did at a rung: about one in three is above its incumbent."""
    return RungRecord(
        candidate=candidate.id,
        rung=rung,
        split="search",
        num_examples=64,
        score=rng.random(),
        program_bits=rng.randrange(3000, 30000),
        payload_bits=rng.randrange(30000),
        program=f"{rng.getrandbits(256):064x}",
        base_digest="0" * 64,
        worker="m-0",
        against="0" * 16,
        gap=rng.random() - 0.67,
        seconds=rng.random(),
        attempt=1,
        finished_at=datetime.now(UTC),
    )


def write(folder: Place, number: int) -> int:
    """Write the ledger of the first attempt and return its number of decisions.

    It ends when one more decision would fold it, after at least `number` candidates.
    """
    sweep, rng = load_sweep(SWEEP), random.Random(0)  # noqa: S311 - scores of a benchmark
    run = RunFolder(folder.parent, sweep, SWEEP.parent, 1, locked=True)
    plan = Plan(load_task(sweep.task, SWEEP.parent), (), {}, None, ())
    decisions = proposed = 0
    with lock_run(folder):
        recorder = Recorder(run, plan, search_of(sweep), Replayed(), lambda *_: None)
        while True:
            candidate = recorder.propose("pretrained")
            assert candidate is not None
            proposed += 1
            for rung in range(sweep.rungs.count):
                record = record_of(candidate, rung, rng)
                run.ledger.write(PredictionRecord, record.part, [])
                run.ledger.write(ProgramRecord, record.part, [])
                run.ledger.write(RungRecord, record.part, [record])
                goes_on = recorder.decide(record).action == "promote"
                decisions += 1
                if proposed >= number and decisions % FOLD_EVERY == FOLD_EVERY - 1:
                    return decisions
                if not goes_on:
                    break


def rebuild(folder: Path, number: int) -> dict[str, Any]:
    """Begin the next attempt and return what that took."""
    sweep = load_sweep(SWEEP)
    with tempfile.TemporaryDirectory() as scratch:
        # What the libraries take once is not a matter of candidates.
        small = Path(scratch) / "run" / "ledger"
        write(small, 10)
        with lock_run(small) as attempt:
            begin(small, attempt)
            replay(Ledger(small, attempt), search_of(sweep))
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.monotonic()
    with lock_run(folder) as attempt:
        begin(folder, attempt)
        begun_s = time.monotonic() - began
        search = search_of(sweep)
        state = replay(Ledger(folder, attempt), search)
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
