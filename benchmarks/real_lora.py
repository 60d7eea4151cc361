r"""LoRA programs before and after their A was coded as its difference from the seeded start.

    python benchmarks/real_lora.py MODEL_DIR [--records FILE.jsonl --input description \
        --target section] [--modules v_proj] [--rank 1] [--rate 0.003] [--steps 18] [--rows 8] \
        [--examples 24] [--batch 8]

Trains one LoRA, by default on the built-in task `numbers`, and writes it at three quantisation
steps in both ways: as numbers alone, and as the shorter of numbers and differences. Each program's
score is that of its decoded numbers. Prints one JSON object a step: program and payload bits, and
scores, before and after. One thread.
"""

import argparse
import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch

# Scripts see only their own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.oracles import run_program
from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.jsonl import JsonlTask, load_jsonl
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from kilobit.search.task import Task

STEPS = (0.125, 0.25, 0.5)


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
    """Print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--input", default="description")
    parser.add_argument("--target", default="section")
    parser.add_argument("--modules", nargs="+", default=["v_proj"])
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    task, config = task_of(asked), BaseModelConfig(regime="real", path=asked.model.absolute())
    frozen = load(config, Path())
    spec = AdapterSpec(
        method="lora", rank=asked.rank, target_modules=tuple(asked.modules),
        learning_rate=asked.rate, steps=asked.steps, batch_size=asked.rows, seed=0,
    )  # fmt: skip
    candidate = Candidate(task=task.name, model="real", adapter=spec)
    builder = Builder(frozen, config, task, asked.batch, "program")
    examples = task.splits.search[: asked.examples]
    with installed(frozen, spec) as adapter:
        adapter.train(frozen, Lesson(task, "", task.splits.train), spec.steps)
        tensors = adapter.tensors()
        for step in STEPS:
            coded = candidate.model_copy(update={"adapter": spec.model_copy(update={"step": step})})
            line: dict[str, object] = {"step": step}
            for name in ("before", "after"):
                if name == "before":
                    with patch.object(Adapter, "pairs_from_seed", new=False):
                        program = builder.build(coded, {}, adapter, tensors)
                else:
                    program = builder.build(coded, {}, adapter, tensors)
                decoded = builder.decode(program)
                adapter.assign(decoded.tensors, decoded.delta)
                inputs = [example.input for example in examples]
                outputs = run_program(program, "", frozen, adapter.model, inputs)
                scores = [score or 0.0 for score in task.metric.scores(outputs, examples)]
                line[name] = {
                    "program_bits": program.program_bits,
                    "payload_bits": program.payload_bits,
                    "codec": program.codecs.get("adapter"),
                    "delta": decoded.delta,
                    "score": round(sum(scores) / len(scores), 3),
                }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
