"""Packed rollouts of many members against as many rows of the bare model, in processor seconds.

    python benchmarks/rollouts.py [--model examples/tiny/pretrained] [--members 16] [--examples 16]
        [--rounds 7]

Both answer the same questions with equally many tokens; the first with each member's own numbers,
whose changes it also prepares. Prints the median of the rounds, which take turns, and their ratio.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.packing.decode import Asked, answer
from kilobit.evaluators.model.packing.deltas import Changes, detached, fixed
from kilobit.evaluators.model.packing.passes import Planner, pass_tokens
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig

TINY = Path(__file__).parent.parent / "examples" / "tiny" / "pretrained"
TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
KINDS = {"tinylora": {"size": 13}, "lora": {"rank": 1}, "ia3": {}}
NEW_TOKENS = 12


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    task = load_miniature("numbers", 0)
    frozen = load(BaseModelConfig(regime="model", path=args.model.absolute()), Path())
    planner = Planner(pass_tokens(frozen))
    texts = [task.ask(example.input) for example in task.splits.train[: args.examples]]
    ids = [tuple(row) for row in frozen.tokenizer(texts)["input_ids"]]
    # Without stop strings answers are equally long unless they end by themselves.
    own = [Asked(member, row, NEW_TOKENS) for member in range(args.members) for row in ids]
    bare = [Asked(0, row, NEW_TOKENS) for row in ids * args.members]
    for method, shape in KINDS.items():
        spec = AdapterSpec.model_validate(
            {
                "method": method,
                "target_modules": TARGETS,
                "learning_rate": 0.01,
                "relative": True,
                "steps": 1,
                "batch_size": args.examples,
                "seed": 0,
                "training": "reward",
                "population": args.members,
                **shape,
            }
        )
        found = detached(frozen, spec)
        assert found is not None
        adapter, changes = found

        def packed(adapter=adapter, changes=changes) -> int:
            slots: list[Changes] = []
            for numbers in adapter.reward.members():
                adapter.show(numbers)
                slots.append(fixed(changes))
            return sum(map(len, answer(frozen, slots, own, planner)))

        def alone() -> int:
            return sum(map(len, answer(frozen, [{}], bare, planner)))

        tokens = packed(), alone()
        pairs = [(seconds(packed), seconds(alone)) for _ in range(args.rounds)]
        mine, theirs = (median(column) for column in zip(*pairs, strict=True))
        print(
            f"{method:9} {args.members} members x {args.examples} examples: packed {mine:.2f} s "
            f"({tokens[0]} tokens), bare {theirs:.2f} s ({tokens[1]} tokens), "
            f"ratio {mine / theirs:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
