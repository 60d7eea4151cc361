"""What the embedded model's own code makes of prompts, beside general codecs.

    python benchmarks/model_coder.py [--prompts 200] [--threads 2] [--regime pretrained]

The prompts are instruction lines and 0 to 4 demonstrations from the train splits of the built-in
tasks. Prints one JSON object: `overhead` is the whole section, header included, over the sum of
-log2 p by the model's softmax; `general_over_model` is the bytes of the best general codec divided
by the section's.
"""

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path

import torch

# Scripts see only their own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.oracles import ideal_bits
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.text_codec import (
    cache_for,
    decode_text,
    encode_text,
    next_logits,
    start_token,
)
from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Prompt
from kilobit.search.programs.text import compress
from kilobit.search.streams import stream

TINY = Path(__file__).parent.parent / "examples" / "tiny"
INSTRUCTIONS = {
    "numbers": ("", "Number:", "Answer with a number.", "Solve the problem step by step."),
    "translation": ("", "German:", "Translate into German.", "English to German:"),
    "instructions": ("", "Follow the task.", "Write what is asked.", "Do exactly as told."),
}


def make_prompts(count: int, rng: random.Random) -> list[str]:
    """Return `count` prompts, none empty, of the three tasks in turn."""
    tasks = [load_miniature(name, 0) for name in MINIATURE_TASKS]
    prompts: list[str] = []
    while len(prompts) < count:
        task = tasks[len(prompts) % len(tasks)]
        shown = rng.sample(task.splits.train, rng.randint(0, 4))
        prompt = Prompt(
            instruction=rng.choice(INSTRUCTIONS[task.name]),
            demonstrations=tuple((example.input, example.target) for example in shown),
        )
        prompts += filter(None, [prompt.render(task)])
    return prompts


def measure(frozen: FrozenModel, text: str) -> dict[str, float]:
    """Return what one prompt costs by each code."""
    start = start_token(frozen.tokenizer)
    ids = frozen.tokenizer(text, add_special_tokens=False)["input_ids"]
    section = encode_text(frozen, text)
    bits = ideal_bits(ids, start, next_logits(frozen.model))
    return {
        "tokens": len(ids),
        "exact": decode_text(frozen, section, cache_for(frozen, len(ids))) == text,
        "ideal_bits": bits,
        "overhead_bits": 8 * len(section) - bits,
        "section_bytes": len(section),
        "general_bytes": min(map(len, compress(text.encode()).values())),
    }


def main() -> None:
    """Print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--regime", default="pretrained")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    frozen = load(BaseModelConfig(regime=args.regime, path=Path(args.regime)), TINY)
    began = time.monotonic()
    rows = [measure(frozen, text) for text in make_prompts(args.prompts, stream(0, "model_coder"))]
    overheads = [row["overhead_bits"] for row in rows]
    total = sum(row["ideal_bits"] for row in rows)
    ratios = [row["general_bytes"] / row["section_bytes"] for row in rows]
    summary = {
        "regime": args.regime,
        "prompts": len(rows),
        "exact": sum(bool(row["exact"]) for row in rows),
        "tokens_mean": statistics.mean(row["tokens"] for row in rows),
        "tokens_max": max(row["tokens"] for row in rows),
        "ideal_bits_mean": total / len(rows),
        "overhead_bits_mean": statistics.mean(overheads),
        "overhead_bits_max": max(overheads),
        "overhead_percent_of_total": 100 * sum(overheads) / total,
        "overhead_percent_max": max(100 * row["overhead_bits"] / row["ideal_bits"] for row in rows),
        "over_2_percent_and_24_bits": sum(
            row["overhead_bits"] > 24 + 0.02 * row["ideal_bits"] for row in rows
        ),
        "section_bytes_median": statistics.median(row["section_bytes"] for row in rows),
        "general_bytes_median": statistics.median(row["general_bytes"] for row in rows),
        "general_over_model_median": statistics.median(ratios),
        "seconds": time.monotonic() - began,
    }
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in summary.items()}))


if __name__ == "__main__":
    main()
