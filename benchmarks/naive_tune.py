"""A search as it is usually written with Ray Tune against `kilobit run`, on the same candidates.

    python benchmarks/naive_tune.py

The usual way: Ray Tune's ASHA on the score, a function that loads the model, trains with PEFT up to
each rung's steps, scores all examples with `model.generate`, and reports. Both have the same 48
candidates, rungs, examples and two slots of one thread. Prints seconds of both, where they went,
and the front of each by the same estimate of length: 16 bits a trained number, 8 bits a byte of the
prompt.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kilobit import launch
from kilobit.cluster.driver.check import check_sweep
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate
from kilobit.search.records import RungRecord, VerificationRecord, WorkerRecord

SWEEP = Path(__file__).parent / "naive_tune.yaml"
BATCH = 64
Point = tuple[int, float]


def naive_trial(config: dict[str, Any]) -> None:
    """Do what a trial does that knows nothing of the others."""
    began = time.monotonic()
    import torch
    from ray import tune

    from kilobit.evaluators.model.adapters import installed
    from kilobit.evaluators.model.base_model import load
    from kilobit.evaluators.model.training_batches import Lesson

    torch.set_num_threads(1)
    sweep = Sweep.model_validate_json(config["sweep"], strict=True)
    task = load_task(sweep.task, SWEEP.parent)
    candidate = Candidate.model_validate_json(config["candidate"])
    frozen = load(sweep.base_models[0], SWEEP.parent)
    spent = {"load_s": time.monotonic() - began, "train_s": 0.0, "score_s": 0.0}
    prompt = candidate.prompt.render(task)

    def score(model: Any) -> float:
        from kilobit.evaluators.model.generate import generate

        examples = task.splits.search[: sweep.rungs.ladder()[-1].num_examples]
        made = generate(
            frozen,
            [prompt + task.ask(example.input) for example in examples],
            max_new_tokens=task.max_new_tokens,
            stop=task.stop,
            batch_size=BATCH,
            model=model,
        )
        from kilobit.search.programs.postprocess import postprocess

        steps = candidate.postprocess
        printed = [postprocess(text, steps, task.stop) for text in made.texts]
        outputs = [task.cut(text, steps) for text in printed]
        return float(task.metric.corpus(outputs, examples).score or 0.0)

    def report(model: Any, numbers: int) -> None:
        began = time.monotonic()
        found = score(model)
        spent["score_s"] += time.monotonic() - began
        bits = 16 * numbers + 8 * len(prompt.encode())
        tune.report({"score": found, "bits": bits, "candidate": candidate.id, **spent})

    if candidate.adapter is None:
        for _ in sweep.rungs.ladder():
            report(None, 0)
        return
    with installed(frozen, candidate.adapter) as adapter:
        lesson = Lesson(task, prompt, task.splits.train, candidate.chat)
        for rung in sweep.rungs.ladder():
            began = time.monotonic()
            adapter.train(frozen, lesson, min(candidate.adapter.steps, rung.train_steps))
            spent["train_s"] += time.monotonic() - began
            report(adapter.model, sum(w.numel() for w in adapter.weights.values()))


def naive(sweep: Sweep, candidates: Sequence[Candidate]) -> tuple[float, list[dict[str, Any]]]:
    """Run the usual search; return its seconds and the last result of each trial."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    count, eta = sweep.rungs.count, sweep.rungs.eta
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ray_session():
        tuner = tune.Tuner(
            tune.with_resources(naive_trial, {"cpu": 1}),
            param_space={
                "candidate": tune.grid_search([one.canonical() for one in candidates]),
                "sweep": sweep.model_dump_json(),
            },
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                scheduler=ASHAScheduler(
                    time_attr="training_iteration",
                    max_t=count,
                    grace_period=1,
                    reduction_factor=eta,
                ),
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        results = tuner.fit()
        assert ray.is_initialized()
        rows = [result.metrics for result in results if result.metrics]
    return time.monotonic() - began, rows


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no shorter one reaches."""
    found: list[Point] = []
    for bits, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or score > found[-1][1]:
            found.append((bits, score))
    return found


def is_as_good(one: Sequence[Point], other: Sequence[Point]) -> bool:
    """Return whether for each point of `other` one of `one` is as short and as good."""
    return all(any(b <= bits and s >= score for b, s in one) for bits, score in other)


def main() -> None:
    """Print all figures as JSON."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    sweep = load_sweep(SWEEP)
    plan = check_sweep(sweep, SWEEP.parent)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.monotonic()
        status = launch.main(["run", str(SWEEP), "--out", str(out)])
        whole_s = time.monotonic() - began
        ledger = Ledger(out / "ledger")
        rungs = ledger.records(RungRecord)
        workers = ledger.records(WorkerRecord)
        verified_s = sum(one.seconds for one in ledger.records(VerificationRecord))
    naive_s, trials = naive(sweep, plan.candidates)
    last, known = sweep.rungs.count - 1, {one.id: one for one in plan.candidates}
    sizes = {trial["candidate"]: trial["bits"] for trial in trials}
    ours = [
        (sizes[one.candidate], one.score)
        for one in rungs
        if one.rung == last and one.candidate in known and one.verdict != "loses"
    ]
    theirs = [(t["bits"], t["score"]) for t in trials if t["training_iteration"] == last + 1]
    ended = max(one.finished_at for one in rungs)
    search_s = (ended - min(one.started_at for one in workers)).total_seconds()
    figures = {
        "exit_status": status,
        "usual_s": round(naive_s, 1),
        "usual_by_phase_s": {
            name: round(sum(trial[name] for trial in trials), 1)
            for name in ("load_s", "train_s", "score_s")
        },
        "usual_examples_generated": sum(t["training_iteration"] for t in trials) * 486,
        "kilobit_s": round(whole_s, 1),
        "kilobit_search_s": round(search_s, 1),
        "kilobit_verification_s": round(verified_s, 1),
        "kilobit_by_phase_s": {
            "load_s": round(sum(one.load_s for one in workers), 1),
            "train_s": round(sum(one.train_s or 0 for one in rungs), 1),
            "score_s": round(sum(one.generate_s or 0 for one in rungs), 1),
        },
        "kilobit_examples_generated": sum(one.num_generated or 0 for one in rungs),
        "kilobit_examples_scored": sum(one.num_examples for one in rungs),
        "times_sooner_in_all": round(naive_s / whole_s, 2),
        "times_sooner_to_the_end_of_the_search": round(naive_s / search_s, 2),
        "usual_front": front(theirs),
        "kilobit_front": front(ours),
        "kilobit_is_as_good_everywhere": is_as_good(ours, theirs),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
