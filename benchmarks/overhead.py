"""What the machinery costs beside the model.

    python benchmarks/overhead.py [--trials 200]

Prints seconds per trial through Ray Tune when a rung costs nothing, the memory of a trial process,
and the share of the quickstart spent in model compute with its number of model loads.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from kilobit import launch
from kilobit.cluster.driver.check import Plan
from kilobit.cluster.driver.recorder import Recorder
from kilobit.cluster.driver.replay import Replayed
from kilobit.cluster.driver.tune import RecordedScheduler, RecordedSearcher, StopRequest, run_trials
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import RungReply, Worker
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.sweep.workers import TRIAL_CPUS
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.records import RungRecord, WorkerRecord
from kilobit.search.rungs import Rung
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


def trial_memory_mb() -> list[float]:
    """Return the unique memory of every process that runs trials, in MB."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "RungTrial" in command:
            found.append(process.memory_full_info().uss / 1e6)
    return found


def time_trials(num_trials: int, num_workers: int = 2) -> tuple[float, list[float]]:
    """Return the seconds of `num_trials` trials of one rung, and the memory of their processes."""
    # Not at the top: Ray reads its environment when it is imported, and `cluster` sets it first.
    import ray

    if __name__ != "__main__":
        # Whoever looks up an actor loads its class, and by reference all that this module imports.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ray_session():
        workers = [Worker(f"noop-{i}", "pretrained") for i in range(num_workers)]
        actor_class: Any = ray.remote(NoOpEvaluator)
        handles = [actor_class.options(name=w.name, num_cpus=0).remote() for w in workers]

        def listener(*_: Any) -> None:
            if not memory:
                memory.extend(trial_memory_mb())

        sweep = load_sweep(QUICKSTART)
        run, stop_request = (
            RunFolder(Path(folder), sweep, QUICKSTART.parent, 1, locked=True),
            StopRequest(None),
        )
        search = Search(Numbered(), Full(num_rungs=1, eta=2), "payload_bits", num_trials)
        plan = Plan(load_task(sweep.task, QUICKSTART.parent), (), {}, num_trials, ())
        recorder = Recorder(run, plan, search, Replayed(), listener)
        searcher = RecordedSearcher(recorder, [], workers, [Rung(0, 1, 1)], run, stop_request)
        began = time.monotonic()
        scheduler = RecordedScheduler(recorder, stop_request)
        errors = run_trials(searcher, scheduler, TRIAL_CPUS, Path(folder) / "tune")
        seconds = time.monotonic() - began
        assert not errors, errors
        for handle in handles:
            ray.kill(handle)
    return seconds, memory


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
    parser.add_argument("--trials", type=int, default=200)
    args = parser.parse_args()
    few_s, _ = time_trials(20)
    many_s, memory = time_trials(20 + args.trials)
    figures = {
        # The difference leaves out what starting Tune and its first processes costs.
        "seconds_per_noop_trial": round((many_s - few_s) / args.trials, 4),
        "trial_process_mb": [round(mb) for mb in memory],
        **quickstart(),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
