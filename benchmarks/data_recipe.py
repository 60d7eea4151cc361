"""What training examples cost as a program, and what an adapter that learned from them scores.

    python benchmarks/data_recipe.py [--sizes 8 64 512] [--steps 160 640 1280] [--task numbers]

Prints a line of a Markdown table for each number of examples, on an embedded model (`--regime`).
`general` is the shortest of the general codecs on the same texts joined, `excess` the excess
description length. Every program is run in a fresh process, and its outputs have to be those of
this one; its time is `decode`, with the start of the process and the answers to 162 questions.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

# Scripts see only their own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.oracles import run_program
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.text_codec import chosen_examples, learn
from kilobit.evaluators.proof.sandbox import Limits, Sandbox
from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from kilobit.search.programs.text import compress
from kilobit.search.task import Task

TINY = Path(__file__).parent.parent / "examples" / "tiny"
NUM_SCORED = 162


def measure(frozen: FrozenModel, config: BaseModelConfig, task: Task, spec: AdapterSpec) -> str:
    """Return the line of one number of examples.

    Raises:
        RuntimeError: if the files give other outputs, or the base model changed.
    """
    builder = Builder(frozen, config, task, 54, "program")
    candidate = Candidate(task=task.name, model=config.label, adapter=spec)
    scored = task.splits.search[:NUM_SCORED]
    inputs = [example.input for example in scored]
    with installed(frozen, spec) as adapter:
        began = time.monotonic()
        learned = learn(frozen, adapter, task, spec.steps, exact=True)
        encode_s = time.monotonic() - began
        program = builder.build(candidate, {}, adapter, learned)
        outputs = run_program(program, "", frozen, adapter.model, inputs)
    if weights_digest(frozen.model) != frozen.digest:
        raise RuntimeError("the base model changed")
    began = time.monotonic()
    files = (program.script, program.payload, TINY / (config.path or ""))
    with Sandbox(torch.get_num_threads(), fresh=True) as sandbox:
        found = sandbox.run(*files, inputs, Limits(seconds=1800))
    decode_s = time.monotonic() - began
    if found != outputs:
        raise RuntimeError(f"{spec.size} examples: the files give other outputs")
    score = task.metric.corpus([task.cut(output) for output in outputs], scored).score
    texts = "".join(task.ask(e.input) + task.show(e.target) for e in chosen_examples(task, spec))
    general = 8 * min(map(len, compress(texts.encode()).values()))
    cells = [
        f"{spec.size}",
        f"{program.payload_bits}",
        f"{program.payload_bits / (spec.size or 1):.1f}",
        f"{8 * len(program.script)}",
        f"{general}",
        f"{learned.excess_bits:.0f}",
        f"{score:.3f}",
        f"{encode_s:.1f}",
        f"{decode_s:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--task", choices=MINIATURE_TASKS, default="numbers")
    parser.add_argument("--regime", choices=("pretrained", "posttrained"), default="pretrained")
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument("--steps", type=int, nargs="+", default=[160, 640, 1280])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument(
        "--targets", nargs="+", default=["q_proj", "v_proj", "up_proj", "down_proj"]
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    task = load_miniature(args.task, 0)
    config = BaseModelConfig(regime=args.regime, path=Path(args.regime))
    frozen = load(config, TINY)
    print(
        "| examples | payload bits | bits an example | program.py bits | general codec bits "
        "| excess bits | score | encode s | decode s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for size, steps in zip(args.sizes, args.steps, strict=True):
        spec = AdapterSpec(
            method="data",
            rank=args.rank,
            size=size,
            target_modules=tuple(args.targets),
            learning_rate=args.rate,
            steps=steps,
            batch_size=args.batch_size,
            seed=0,
        )
        print(measure(frozen, config, task, spec), flush=True)


if __name__ == "__main__":
    main()
