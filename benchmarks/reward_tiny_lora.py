"""TinyLoRA of few numbers trained by reward and supervised, at equal payloads and passes.

    python benchmarks/reward_tiny_lora.py [--task numbers] [--model examples/tiny/pretrained]
        [--sizes 13 64] [--seeds 5] [--generations 60] [--examples 16] [--rates 0.1 0.3 1]
        [--scored 512] [--threads 2]

Each adapter is trained by one seed, coded by the ladder, and scored on the search split. A training
by reward answers generations x members x examples questions; the supervised one learns from as many
answers, 16 a step, each of which costs a pass forward and one backward. Each line has the score of
every seed with the program as it was trained, the best score of its coarser codings, and the bits
of their payloads. Rates are relative.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.records import RungRecord

TINY = Path(__file__).parent.parent / "examples" / "tiny" / "pretrained"
TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
SUPERVISED_BATCH = 16


def sweep_of(args: argparse.Namespace, folder: Path) -> Sweep:
    """Return a sweep of one worker, written into a folder."""
    path = folder / "sweep.yaml"
    about = {
        "name": "reward",
        "task": {"kind": "miniature", "name": args.task},
        "base_models": [{"regime": "model", "path": str(args.model.absolute())}],
        "families": {"prompt": {"candidates": 1}},
        "rate_search": {"steps": [0.5, 1.0], "keep": []},
        "rungs": {"examples": args.scored, "train_steps": 10**6, "count": 1},
        "workers": {"per_model": 1, "threads": args.threads},
    }
    path.write_text(yaml.safe_dump(about), "utf-8")
    return load_sweep(path)


def spec_of(args: argparse.Namespace, size: int, training: str, rate: float, seed: int) -> Any:
    """Return an adapter by one way of training, both with equally many answers."""
    about = {
        "method": "tinylora", "size": size, "target_modules": TARGETS, "learning_rate": rate,
        "relative": True, "seed": seed,
    }  # fmt: skip
    reward = AdapterSpec.model_validate(
        {**about, "training": "reward", "steps": args.generations, "batch_size": args.examples}
    )
    if training == "reward":
        return reward
    rows = args.generations * 2 * reward.num_pairs(size) * args.examples
    steps = {"steps": rows // SUPERVISED_BATCH, "batch_size": SUPERVISED_BATCH}
    return AdapterSpec.model_validate({**about, **steps})


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each size, training and rate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="numbers")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--sizes", type=int, nargs="+", default=[13, 64])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--scored", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep = sweep_of(args, folder)
        run, label = folder / "run", sweep.base_models[0].label
        setup = EvaluatorSetup(sweep.model_dump_json(), name, str(run), label, f"{label}-0", 1)
        evaluator, ledger = RungEvaluator(setup), Ledger(run / "ledger", 1)

        def measured(adapter: AdapterSpec | None) -> list[RungRecord]:
            """Return the row of a candidate and those of its coarser codings."""
            one = Candidate(task=args.task, model=label, adapter=adapter)
            record = evaluator.run_rung(one.canonical(), Rung(0, args.scored, 10**6)).record
            assert record.error is None, record.error
            variants = sweep.rate_search.variants(one)
            more = [ledger.read_part(RungRecord, f"{v.id}-r0") or [] for v in variants]
            return [record, *(row for rows in more for row in rows)]

        print(f"the question alone: {measured(None)[0].score:.3f}", flush=True)
        for size in args.sizes:
            for training in ("reward", "plain"):
                for rate in args.rates:
                    specs = [
                        spec_of(args, size, training, rate, seed) for seed in range(args.seeds)
                    ]
                    found = [measured(spec) for spec in specs]
                    firsts = [rows[0] for rows in found]
                    coarser = [max(rows[1:] or rows, key=lambda r: r.score or 0) for rows in found]
                    told = " ".join(f"{row.score:.3f}" for row in firsts)
                    print(
                        f"{size:4} {training:6} rate {rate:<5} {told}  "
                        f"mean {mean(r.score or 0 for r in firsts):.3f} at "
                        f"{mean(r.payload_bits or 0 for r in firsts):.0f} bits; coarser "
                        f"{mean(r.score or 0 for r in coarser):.3f} at "
                        f"{mean(r.payload_bits or 0 for r in coarser):.0f} bits; "
                        f"{mean(r.train_s or 0 for r in firsts):.0f} s of training",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
