"""Sixteen small candidates in common passes against one after the other, on one resident model.

    python benchmarks/packing.py [--model examples/tiny/pretrained] [--threads 2] [--batch-size 2]

Each of 12 adapters of six kinds is trained, and with 4 prompts scored on 54 examples. One after the
other goes through PEFT and `model.generate`; packed is what a worker does. Prints seconds of both,
tokens per second, and how many of the answers are the same.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.generate import generate
from kilobit.evaluators.model.packing.decode import Asked, answer
from kilobit.evaluators.model.packing.deltas import Changes, detached, fixed
from kilobit.evaluators.model.packing.passes import Planner, pass_tokens
from kilobit.evaluators.model.packing.train import Job, train_pack
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig

TASK = load_miniature("numbers", 0)
TINY = Path(__file__).parent.parent / "examples" / "tiny" / "pretrained"
TARGETS = (("q_proj", "v_proj"), ("down_proj",), ("o_proj",))
KINDS: tuple[dict[str, Any], ...] = (
    {"method": "lora", "rank": 1},
    {"method": "lora", "rank": 8},
    {"method": "lora_fa", "rank": 4},
    {"method": "vera", "rank": 8},
    {"method": "tinylora", "size": 13},
    {"method": "ia3"},
)


def specs(batch_size: int, steps: int) -> list[AdapterSpec | None]:
    """Return twelve adapters and four times none."""
    found: list[AdapterSpec | None] = []
    for i in range(12):
        about = KINDS[i % len(KINDS)] | {"target_modules": TARGETS[i % 3], "seed": i}
        training = {"learning_rate": 0.002 * (1 + i % 3), "steps": steps, "batch_size": batch_size}
        found.append(AdapterSpec.model_validate(about | training))
    return found + [None] * 4


def prompt_of(index: int, most: int) -> str:
    """Return a prompt with up to `most` demonstrations."""
    shown = TASK.splits.train[index : index + index % (most + 1)]
    return "".join(TASK.ask(e.input) + TASK.show(e.target) for e in shown)


class Contest:
    """The same candidates both ways."""

    def __init__(self, frozen: FrozenModel, args: argparse.Namespace) -> None:
        self.frozen, self.specs = frozen, specs(args.batch_size, args.steps)
        self.lessons = [
            Lesson(TASK, prompt_of(i, args.shown), TASK.splits.train) for i in range(16)
        ]
        self.examples = TASK.splits.search[: args.examples]
        self.limit = pass_tokens(frozen)
        self.batch_size = args.generate_batch
        self.train_s = {"separate": 0.0, "packed": 0.0}
        self.generate_s = dict(self.train_s)

    def separate(self) -> list[str]:
        """Train and generate one candidate after the other."""
        texts: list[str] = []
        for spec, lesson in zip(self.specs, self.lessons, strict=True):
            if spec is None:
                texts += self._alone(lesson, None)
                continue
            began = time.monotonic()
            with installed(self.frozen, spec) as adapter:
                adapter.train(self.frozen, lesson, spec.steps)
                self.train_s["separate"] += time.monotonic() - began
                texts += self._alone(lesson, adapter.model)
        return texts

    def _alone(self, lesson: Lesson, model: Any) -> list[str]:
        began = time.monotonic()
        asked = [lesson.prompt + TASK.ask(example.input) for example in self.examples]
        found = generate(
            self.frozen,
            asked,
            max_new_tokens=TASK.max_new_tokens,
            stop=TASK.stop,
            batch_size=self.batch_size,
            model=model,
        )
        self.generate_s["separate"] += time.monotonic() - began
        return found.texts

    def packed(self) -> list[str]:
        """Train and generate all together."""
        began = time.monotonic()
        jobs, changes, tokenizer = [], [], self.frozen.tokenizer
        for spec, lesson in zip(self.specs, self.lessons, strict=True):
            found: Changes = {}
            if spec is not None:
                beside = detached(self.frozen, spec)
                assert beside is not None
                jobs.append(Job(*beside, lesson, spec.steps))
                found = beside[1]
            changes.append(found)
        train_pack(self.frozen, jobs, Planner(self.limit))
        self.train_s["packed"] += time.monotonic() - began
        began = time.monotonic()
        rows = []
        for slot, lesson in enumerate(self.lessons):
            texts = [lesson.prompt + TASK.ask(example.input) for example in self.examples]
            options = {"add_special_tokens": self.frozen.special_tokens}
            rows += [
                Asked(slot, tuple(ids), TASK.max_new_tokens, tuple(TASK.stop))
                for ids in tokenizer(texts, **options)["input_ids"]
            ]
        made = answer(self.frozen, [fixed(change) for change in changes], rows, Planner(self.limit))
        self.generate_s["packed"] += time.monotonic() - began
        return [tokenizer.decode(ids, skip_special_tokens=True) for ids in made]


def main() -> None:
    """Print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1, help="examples of a training step")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--shown", type=int, default=2, help="most demonstrations of a prompt")
    parser.add_argument("--examples", type=int, default=54)
    parser.add_argument("--generate-batch", type=int, default=18)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    frozen = load(BaseModelConfig(regime="r", path=args.model, device="auto"), Path())
    contest = Contest(frozen, args)
    ways: dict[str, Callable[[], list[str]]] = {
        "separate": contest.separate,
        "packed": contest.packed,
    }
    said = {name: way() for name, way in ways.items()}
    total = {name: contest.train_s[name] + contest.generate_s[name] for name in ways}
    equal = sum(a == b for a, b in zip(said["separate"], said["packed"], strict=True))
    figures = {
        "threads": args.threads,
        "train_s": {name: round(s, 2) for name, s in contest.train_s.items()},
        "generate_s": {name: round(s, 2) for name, s in contest.generate_s.items()},
        "faster_training": round(contest.train_s["separate"] / contest.train_s["packed"], 2),
        "faster_generation": round(
            contest.generate_s["separate"] / contest.generate_s["packed"], 2
        ),
        "faster": round(total["separate"] / total["packed"], 2),
        "equal_answers": f"{equal} of {len(said['packed'])}",
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
