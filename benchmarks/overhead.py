"""What the machinery costs beside the model.

    python benchmarks/overhead.py [--trials 400] [--slots 32] [--only-trials]

Prints seconds per trial through Ray Tune when a rung costs nothing, with two workers of so many
slots; what the driver's memory grows by for each trial that runs, and how many processes of trials
there are; and the share of the quickstart spent in model compute with its number of model loads.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kilobit import launch
from kilobit.cluster.driver.check import Plan
from kilobit.cluster.driver.recorder import Recorder
from kilobit.cluster.driver.replay import Replayed
from kilobit.cluster.driver.trial import Trials
from kilobit.cluster.driver.tune import RecordedScheduler, RecordedSearcher, StopRequest, run_trials
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import RungReply, Worker
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt, Rung
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.records import RungRecord, WorkerRecord
from kilobit.search.schedulers.asha import Full
from kilobit.search.search import Search

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart.yaml"


class Numbered:
    """Proposes prompts that are numbers, without end."""

    def __init__(self) -> None:
        self._count = 0

    def propose(self, model: str) -> Proposal:
        """Return the next."""
        self._count += 1
        prompt = Prompt(instruction=str(self._count))
        return Proposal(Candidate(task="none", model=model, prompt=prompt), "numbered")

    def observe(self, observation: Observation) -> None:
        """Learn nothing."""


class NoOpEvaluator:
    """Answers every rung at once."""

    def run_rung(self, candidate_json: str, rung: Rung) -> RungReply:
        """Return a result without doing anything."""
        name = Candidate.model_validate_json(candidate_json).id
        record = RungRecord(
            candidate=name, rung=rung.index, score=0.5, payload_bits=8, num_examples=1
        )
        return RungReply(record, (record,))


@dataclass(frozen=True)
class TrialCosts:
    """Seconds and memory of trials.

    Attributes:
        seconds: of all trials.
        mb: growth of the driver's unique memory while the most trials ran, in MB.
        num_processes: processes that ran trials at that time.
    """

    seconds: float
    mb: float
    num_processes: int


def time_trials(num_trials: int, slots: int) -> TrialCosts:
    """Return what trials of one rung cost on two workers of so many slots."""
    # Not at the top: Ray reads its environment when it is imported, and `cluster` sets it first.
    import ray

    if __name__ != "__main__":
        # Whoever looks up an actor loads its class, and by reference all that this module imports.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    driver, most, num_processes = psutil.Process(), 0, 0
    with tempfile.TemporaryDirectory() as folder, ray_session():
        workers = [Worker(f"noop-{i}", "pretrained") for i in range(2)]
        actor_class: Any = ray.remote(NoOpEvaluator)
        handles = [actor_class.options(name=w.name, num_cpus=0).remote() for w in workers]

        told = 0

        def listener(*_: Any) -> None:
            nonlocal most, num_processes, told
            told += 1
            # Looking at all processes is slow.
            if told % 100 != 1:
                return
            most = max(most, driver.memory_full_info().uss)
            commands = (" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
            num_processes = max(num_processes, sum("RungTrial" in command for command in commands))

        sweep = load_sweep(QUICKSTART)
        run = RunFolder(Path(folder), sweep, QUICKSTART.parent, 1, locked=True)
        stop_request = StopRequest(None)
        search = Search(Numbered(), Full(num_rungs=1, eta=2), "payload_bits", num_trials)
        plan = Plan(load_task(sweep.task, QUICKSTART.parent), (), {}, num_trials, ())
        recorder = Recorder(run, plan, search, Replayed(), listener)
        searcher = RecordedSearcher(recorder, [], workers, {"pretrained": slots}, stop_request)
        before = driver.memory_full_info().uss
        began = time.monotonic()
        scheduler = RecordedScheduler(recorder, stop_request)
        errors = run_trials(searcher, scheduler, Trials([Rung(0, 1, 1)], run.ledger))
        seconds = time.monotonic() - began
        assert not errors, errors
        for handle in handles:
            ray.kill(handle)
    return TrialCosts(seconds, (most - before) / 1e6, num_processes)


def quickstart() -> dict[str, Any]:
    """Run the quickstart and return what its ledger says about time and loads."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.monotonic()
        status = launch.main(["run", str(QUICKSTART), "--out", str(out)])
        wall_s = time.monotonic() - began
        ledger = Ledger(out / "ledger")
        rungs, workers = ledger.records(RungRecord), ledger.records(WorkerRecord)
    compute_s = sum((r.train_s or 0) + (r.generate_s or 0) for r in rungs)
    busy_s = sum(r.seconds for r in rungs)
    first = min(w.started_at for w in workers)
    search_s = (max(r.finished_at for r in rungs) - first).total_seconds()
    cores = psutil.cpu_count() or 1
    return {
        "quickstart_exit_status": status,
        "quickstart_wall_s": round(wall_s, 1),
        "quickstart_search_s": round(search_s, 1),
        "model_compute_s": round(compute_s, 1),
        "model_compute_share_of_worker_time": round(compute_s / busy_s, 3),
        "model_compute_share_of_all_cores_in_search": round(compute_s / (cores * search_s), 3),
        "workers": len({w.worker for w in workers}),
        "model_loads": len(workers),
    }


def main() -> None:
    """Print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--only-trials", action="store_true")
    args = parser.parse_args()
    few = time_trials(2 * args.slots, args.slots)
    many = time_trials(2 * args.slots + args.trials, args.slots)
    figures = {
        # The difference leaves out what starting Tune costs.
        "seconds_per_noop_trial": round((many.seconds - few.seconds) / args.trials, 4),
        "slots_of_both_workers": 2 * args.slots,
        "driver_mb_per_running_trial": round(many.mb / (2 * args.slots), 2),
        "trial_processes": many.num_processes,
        **({} if args.only_trials else quickstart()),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
