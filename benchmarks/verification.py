"""What verification costs: processor seconds of programs in forks and in fresh interpreters.

    python benchmarks/verification.py RUN --sweep examples/quickstart.yaml
    python benchmarks/verification.py RUN

With a sweep file it runs it, and prints the seconds from the start of the command to the verified
front, the search's own part of them, and how many programs were verified beside the search. Then it
verifies the front of the finished run with `--fresh`, a Python interpreter for each program, and in
forks of one process that has imported the libraries, in turns, and checks that both give the same
verdicts. Prints user and system seconds of the command with all its processes, and its time.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.records import VerificationRecord


def verify(run: Path, *options: str) -> tuple[float, float, list[tuple[str, bool, int]]]:
    """Return processor seconds, seconds and verdicts of one verification of a front."""
    began, before = time.monotonic(), os.times()
    words = [sys.executable, "-m", "kilobit.launch", "verify", str(run), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    after = os.times()
    used = after.children_user - before.children_user
    used += after.children_system - before.children_system
    records = Ledger(run / "ledger").records(VerificationRecord)
    verdicts = sorted((r.candidate, r.verified, r.num_equal) for r in records)
    return used, time.monotonic() - began, verdicts


def search(sweep: Path, run: Path) -> None:
    """Run a sweep and print how long its front took, from the command to its last verification."""
    began = datetime.now(UTC)
    words = [sys.executable, "-m", "kilobit.launch", "run", str(sweep), "--out", str(run)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.split("\n") if " s in all: " in line)
    own = float(re.findall(r"search ([0-9.]+) s", line)[0])
    records = Ledger(run / "ledger").records(VerificationRecord)
    seconds = (max(r.finished_at for r in records if r.finished_at) - began).total_seconds()
    beside = (run / "run.log").read_text("utf-8").count(" is verified\n")
    print(line)
    print(f"{len(records)} programs verified, {beside} of them beside the search")
    print(f"verified front after {seconds:.1f} s: {seconds / own:.2f} times the search")


def main() -> None:
    """Print the costs of both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run, a new one with --sweep")
    parser.add_argument("--sweep", type=Path, help="is run first")
    parser.add_argument("--repeats", type=int, default=2)
    asked = parser.parse_args()
    if asked.sweep is not None:
        search(asked.sweep, asked.run)
    best = {}
    for _ in range(asked.repeats):
        for name, options in (("fresh", ["--fresh"]), ("forked", [])):
            found = verify(asked.run, *options)
            best[name] = min(best.get(name, found), found)
    (fresh, fresh_s, expected), (forked, forked_s, verdicts) = best["fresh"], best["forked"]
    print(f"{len(verdicts)} programs, {os.cpu_count()} cores; the better of {asked.repeats}")
    print(f"fresh interpreters: {fresh:.1f} processor s, {fresh_s:.1f} s")
    print(f"forks of one:       {forked:.1f} processor s, {forked_s:.1f} s")
    print(f"ratio: processor {forked / fresh:.2f}, time {forked_s / fresh_s:.2f}")
    if verdicts != expected:
        raise SystemExit(f"the verdicts differ: {verdicts} and {expected}")


if __name__ == "__main__":
    main()
