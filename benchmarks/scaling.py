"""What the driver of a search keeps up with: thousands of workers, 100,000 candidates.

    python benchmarks/scaling.py [--workers 2000] [--candidates 100000] [--actors 2 4 8]

The first part runs the driver's own code (proposing, handing out, deciding, recording, folding) for
simulated workers whose rungs take simulated time, and writes the ledger that such a search writes.
Figures are CPU seconds of this process, so that other work on the machine hardly changes them. The
second part runs real Ray actors, as many as are asked for, through Ray Tune; their rungs cost
nothing.
"""

import argparse
import heapq
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from ledger import SWEEP, record_of, search_of
from overhead import time_trials

from kilobit.cluster.driver.check import Plan
from kilobit.cluster.driver.recorder import Recorder
from kilobit.cluster.driver.replay import Replayed
from kilobit.cluster.driver.tune import RecordedScheduler, RecordedSearcher, StopRequest
from kilobit.cluster.messages import RungReply, Worker
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.runs.lock import lock_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate
from kilobit.search.records import PredictionRecord, ProgramRecord, RungRecord

_REPORTS = 4


class Driver:
    """The driver of a search, as Ray Tune would call it."""

    def __init__(self, folder: Path, num_workers: int, num_candidates: int) -> None:
        sweep = load_sweep(SWEEP)
        self.run = RunFolder(folder, sweep, SWEEP.parent, 1, locked=True)
        plan = Plan(load_task(sweep.task, SWEEP.parent), (), {}, num_candidates, ())
        search = search_of(sweep)
        recorder = Recorder(self.run, plan, search, Replayed(), lambda *_: None)
        stop_request = StopRequest(None)
        workers = [Worker(f"pretrained-{i}", "pretrained") for i in range(num_workers)]
        slots = {model: own.slots for model, own in sweep.workers_by_model.items()}
        self.searcher = RecordedSearcher(recorder, [], workers, slots, stop_request)
        self.scheduler = RecordedScheduler(recorder, stop_request)
        self.rungs = sweep.rungs.ladder()


def simulate(folder: Path, num_workers: int, num_candidates: int) -> list[dict[str, Any]]:
    """Run a search over simulated workers and return the state of the driver at some moments."""
    rng, process = random.Random(0), psutil.Process()  # noqa: S311 - times of a benchmark
    # Waiting for the disk is no part of what is measured.
    os.fsync = lambda _: None
    with lock_run(folder / "ledger"):
        driver = Driver(folder, num_workers, num_candidates)
        memory_before = process.memory_info().rss
        clock = worker_s = 0.0
        # When a trial's rung is over, which trial, its candidate, its rung.
        running: list[tuple[float, int, Candidate, int]] = []
        proposed = decisions = 0
        reports, began = [], time.process_time()
        while True:
            while proposed < num_candidates and len(running) < num_workers:
                message = driver.searcher.suggest(str(proposed))
                candidate = Candidate.model_validate_json(message["candidate"])
                heapq.heappush(running, (clock + rng.expovariate(1 / 60), proposed, candidate, 0))
                proposed += 1
            if not running:
                return reports
            clock, trial, candidate, rung = heapq.heappop(running)
            left_out = time.process_time()
            record = record_of(candidate, rung, rng)
            driver.run.ledger.write(PredictionRecord, record.part, [])
            driver.run.ledger.write(ProgramRecord, record.part, [])
            driver.run.ledger.write(RungRecord, record.part, [record])
            # Workers write these, not the driver.
            worker_s += time.process_time() - left_out
            result = {"reply": RungReply(record, (record,))}
            if driver.scheduler.on_trial_result(None, None, result) == "CONTINUE":
                again = (clock + rng.expovariate(1 / 60), trial, candidate, rung + 1)
                heapq.heappush(running, again)
            else:
                driver.searcher.on_trial_complete(str(trial), result)
            decisions += 1
            if proposed * _REPORTS >= num_candidates * (len(reports) + 1):
                seconds = time.process_time() - began - worker_s
                files = [file for file in folder.rglob("*") if file.is_file()]
                reports.append(
                    {
                        "candidates": proposed,
                        "decisions": decisions,
                        "driver_cpu_s": round(seconds, 1),
                        "decisions_per_s": round(decisions / seconds),
                        "driver_bytes_per_candidate": (process.memory_info().rss - memory_before)
                        // proposed,
                        "ledger_bytes_per_candidate": sum(f.stat().st_size for f in files)
                        // proposed,
                        "files": len(files),
                        "simulated_s": round(clock),
                        "rungs_per_simulated_s": round(decisions / clock, 1),
                    }
                )
                print(json.dumps(reports[-1]), flush=True)


def main() -> None:
    """Print the figures of both parts, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2000)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--actors", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--trials", type=int, default=200)
    args = parser.parse_args()
    for actors in args.actors:
        seconds, memory = time_trials(args.trials, actors)
        figures = {
            "actors": actors,
            "trials_per_s": round(args.trials / seconds, 1),
            "mb_of_a_trial_process": round(sum(memory) / max(1, len(memory))),
        }
        print(json.dumps(figures), flush=True)
    if args.candidates:
        with tempfile.TemporaryDirectory() as folder:
            simulate(Path(folder), args.workers, args.candidates)


if __name__ == "__main__":
    main()
