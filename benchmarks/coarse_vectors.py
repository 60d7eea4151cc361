"""What vectors keep of their score when their numbers have one or two bits.

    python -m benchmarks.coarse_vectors SWEEP.yaml [--steps 150] [--examples 100]
        [--methods ia3,steering,soft_prompt] [--threads 1]

Each method is trained on the first model and the task of the sweep, plainly and by signs. Each line
is a program: its payload bits and bits a number, and the score of examples of the search split.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.oracles import run_program
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.adapter_methods import AdapterSpec, TrainingName
from kilobit.search.candidate import Candidate
from kilobit.search.space import RateSearch

SHAPES: dict[str, dict[str, Any]] = {
    "ia3": {"target_modules": ("k_proj", "v_proj", "down_proj"), "learning_rate": 0.2},
    "steering": {"target_modules": ("down_proj",), "learning_rate": 1.0},
    "soft_prompt": {"size": 4, "learning_rate": 3.0},
}
TRAININGS: tuple[TrainingName, ...] = ("plain", "signs")


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--methods", default=",".join(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    sweep, folder = load_sweep(args.sweep), args.sweep.absolute().parent
    task, config = load_task(sweep.task, folder), sweep.base_models[0]
    frozen = load(config, folder)
    examples = task.splits.search[: args.examples]
    builder = Builder(frozen, config, task, 32, "payload")
    for name in args.methods.split(","):
        for training in TRAININGS:
            spec = AdapterSpec(
                method=name, relative=True, steps=args.steps, batch_size=8, seed=7,
                training=training, **SHAPES[name],
            )  # fmt: skip
            first = Candidate(task=task.name, model=config.label, adapter=spec)
            with installed(frozen, spec) as adapter:
                adapter.train(frozen, Lesson(task, "", task.splits.train), args.steps)
                numbers = adapter.tensors()
                for one in (first, *RateSearch(keep=()).variants(first)):
                    program = builder.build(one, {}, adapter, numbers)
                    decoded = builder.decode(program)
                    adapter.assign(decoded.tensors, decoded.delta)
                    inputs = [example.input for example in examples]
                    said = run_program(program, "", frozen, adapter.model, inputs)
                    score = task.metric.corpus(said, examples).score
                    count = sum(tensor.size for tensor in numbers)
                    bits, step = program.payload_bits, one.adapter.step if one.adapter else 0
                    print(
                        f"{name:12} {training:6} step {step:<5g} {count:5} numbers {bits:6} bits "
                        f"{bits / count:5.2f} a number  score {score:.3f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
