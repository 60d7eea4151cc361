r"""LoRA programs by how much faster B learns than A, at several quantisation steps.

    python benchmarks/real_lora.py MODEL_DIR [--records FILE.jsonl --input description \
        --target section] [--modules v_proj] [--rank 1] [--ratios 1 10] [--rates 0.15 0.3] \
        [--seeds 0] [--steps 18] [--rows 8] [--examples 48] [--batch 24] [--codings 0.5 1 1.5]

Trains a LoRA for each ratio, relative rate and seed, by default on the built-in task `numbers`, and
writes it at each quantisation step. Each program's score, and its loss in nats a token of the
answers, is that of its decoded numbers on the same examples. Prints one JSON object a program;
`whole_bits` is its length if A and B were written as they are, not as differences from their start.
At the end, for each score, the shortest program of each ratio that reaches it. One thread.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

# Scripts see only their own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.oracles import run_program
from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.training_batches import Lesson, training_batch
from kilobit.evaluators.tasks.jsonl import JsonlTask, load_jsonl
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from kilobit.search.task import Task


def task_of(asked: argparse.Namespace) -> Task:
    """Return the task of a file of records, or the built-in one."""
    if asked.records is None:
        return load_miniature("numbers", 0)
    settings = {
        "kind": "jsonl", "name": "records", "data": str(asked.records.absolute()),
        "input_field": asked.input, "target_field": asked.target, "metric": "exact_match",
        "question": "{input}\nSection:", "answer": " {target}\n", "stop": ["\n"],
        "max_new_tokens": 4,
    }  # fmt: skip
    return load_jsonl(JsonlTask.model_validate(settings), Path())


def main() -> None:
    """Print a line for each program, and the shortest ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--input", default="description")
    parser.add_argument("--target", default="section")
    parser.add_argument("--modules", nargs="+", default=["v_proj"])
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.15, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--codings", type=float, nargs="+", default=[0.5, 1.0, 1.5])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    task, config = task_of(asked), BaseModelConfig(regime="real", path=asked.model.absolute())
    frozen = load(config, Path())
    lines = []
    for seed, rate, ratio in product(asked.seeds, asked.rates, asked.ratios):
        spec = AdapterSpec(
            method="lora", rank=asked.rank, target_modules=tuple(sorted(asked.modules)),
            learning_rate=rate, relative=True, ratio=ratio, steps=asked.steps,
            batch_size=asked.rows, seed=seed,
        )  # fmt: skip
        for line in programs_of(
            frozen, config, task, spec, asked.examples, asked.batch, asked.codings
        ):
            lines.append({"seed": seed, "rate": rate, "ratio": ratio, **line})
            print(json.dumps(lines[-1]), flush=True)
    for score in sorted({line["score"] for line in lines}):
        found = {
            ratio: min(
                (x["program_bits"] for x in lines if x["ratio"] == ratio and x["score"] >= score),
                default=None,
            )
            for ratio in asked.ratios
        }
        print(json.dumps({"score": score, "shortest by ratio": found}))


def programs_of(
    frozen: FrozenModel,
    config: BaseModelConfig,
    task: Task,
    spec: AdapterSpec,
    num_examples: int,
    batch_size: int,
    steps: Sequence[float],
) -> Iterator[dict[str, Any]]:
    """Train an adapter and yield what its program is at each quantisation step."""
    candidate = Candidate(task=task.name, model="real", adapter=spec)
    builder = Builder(frozen, config, task, batch_size, "program")
    examples = task.splits.search[:num_examples]
    held, lesson = (Lesson(task, "", e) for e in (examples, task.splits.train))
    batch = training_batch(frozen, held, spec.model_copy(update={"batch_size": num_examples}), -1)
    with installed(frozen, spec) as adapter:
        adapter.train(frozen, lesson, spec.steps)
        tensors = adapter.tensors()
        for step in steps:
            coded = candidate.model_copy(update={"adapter": spec.model_copy(update={"step": step})})
            with patch.object(Adapter, "pairs_from_seed", new=False):
                whole = builder.build(coded, {}, adapter, tensors)
            program = builder.build(coded, {}, adapter, tensors)
            decoded = builder.decode(program)
            adapter.assign(decoded.tensors, decoded.delta)
            with torch.no_grad():
                loss = float(adapter.model(**batch).loss)
            inputs = [example.input for example in examples]
            outputs = run_program(program, "", frozen, adapter.model, inputs)
            scores = task.metric.scores([task.cut(output) for output in outputs], examples)
            yield {
                "step": step,
                "program_bits": program.program_bits,
                "payload_bits": program.payload_bits,
                "whole_bits": whole.program_bits,
                "delta": decoded.delta,
                "loss": round(loss, 3),
                "score": round(sum(score or 0.0 for score in scores) / len(scores), 3),
            }


if __name__ == "__main__":
    main()
