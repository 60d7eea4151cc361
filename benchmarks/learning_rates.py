"""Which learning rates each adapter method learns at, on the first model and the task of a sweep.

    python benchmarks/learning_rates.py examples/own_data.yaml [--steps 24] [--batch-size 8]
        [--methods lora,vera] [--range low high points] [--threads 1]

Each line is a training of its own: the method and how many numbers it trains, the rate, and the
loss of 48 examples of the search split before and after it. Rates are relative, at both ends and in
the middle of the method's own range; with `--range` they are absolute, the same for all methods.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.training_batches import Lesson, training_batch
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.adapter_methods import METHODS, AdapterSpec
from kilobit.search.proposers.grid import log_points
from kilobit.search.space import LogRange

USUAL: dict[str, Any] = {
    "rank": 4,
    "size": 64,
    "target_modules": ("q_proj", "v_proj"),
    "tokens": (0,),
    "draws": (0,),
}
# LoRA-XS, VeRA and the like have few numbers for each rank; LoRA has many.
OWN: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2},
    "seeds": {"rank": 1, "draws": tuple(range(64))},
    "lora_fa": {"rank": 2},
    "soft_prompt": {"size": 2},
    "ln_tuning": {"target_modules": ("input_layernorm",)},
    "steering": {"target_modules": ("down_proj",)},
    "weights": {"target_modules": ("v_proj",)},
}
NUM_HELD = 48


@torch.no_grad()
def loss_of(frozen: FrozenModel, adapter: Adapter, held: Lesson) -> float:
    """Return the loss of the model with its adapter."""
    spec = adapter.spec.model_copy(update={"batch_size": NUM_HELD})
    return float(adapter.model(**training_batch(frozen, held, spec, -1), use_cache=False).loss)


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each method and rate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--range", type=float, nargs=3, metavar=("LOW", "HIGH", "POINTS"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    sweep, folder = load_sweep(args.sweep), args.sweep.absolute().parent
    task = load_task(sweep.task, folder)
    frozen = load(sweep.base_models[0], folder)
    lesson = Lesson(task, "", task.splits.train)
    held = Lesson(task, "", task.splits.search)
    for name in args.methods.split(","):
        method = METHODS[name]
        if method.examples:
            continue
        low, high, points = args.range or (*method.rates, 3)
        shape = {key: USUAL[key] for key in method.fields if key in USUAL} | OWN.get(name, {})
        for rate in log_points(LogRange(low=low, high=high), int(points)):
            spec = AdapterSpec(
                method=name, learning_rate=rate, relative=args.range is None, steps=args.steps,
                batch_size=args.batch_size, seed=7, **shape,
            )  # fmt: skip
            with installed(frozen, spec) as adapter:
                before = loss_of(frozen, adapter, held)
                adapter.train(frozen, lesson, args.steps)
                after = loss_of(frozen, adapter, held)
                count = sum(weight.numel() for weight in adapter.weights.values())
            print(f"{name:16} {count:7} {rate:8.3g}  {before:.3f} -> {after:.3f}", flush=True)


if __name__ == "__main__":
    main()
