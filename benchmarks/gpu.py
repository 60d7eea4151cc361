"""What packs bring on a GPU: training, generation, and how near the device's own speed they come.

    python benchmarks/gpu.py [--shape 1b] [--dtype bfloat16] [--candidates 16]

A model with random weights of the given shape. Sixteen LoRA adapters of ranks 1 to 8 are trained
for a few steps one after the other through PEFT and in one pack, with 1, 2 and 4 examples a step;
64 rows are continued with mixed adapters and without. Needs neither network nor Ray. Where there is
no GPU, `--shape small` runs the same code on the CPU.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load_tokenizer
from kilobit.evaluators.model.machine import fingerprint
from kilobit.evaluators.model.packing.decode import Asked, answer
from kilobit.evaluators.model.packing.deltas import Changes, detached, fixed
from kilobit.evaluators.model.packing.passes import Planner, pass_tokens
from kilobit.evaluators.model.packing.train import Job, train_pack
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig

TASK = load_miniature("instructions", 0)
TINY = Path(__file__).parent.parent / "examples" / "tiny" / "pretrained"
SHAPES: dict[str, dict[str, int]] = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "small": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
VOCABULARY = 32_000
TARGETS = (("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj"), ("down_proj",))


def synchronized() -> float:
    """Return the time when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP/s of large matrix products, measured."""
    size = 8192 if device == "cuda" else 1024
    one = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        one @ one
    began, count = synchronized(), 20
    for _ in range(count):
        one @ one
    return 2 * size**3 * count / (synchronized() - began)


def frozen_model(shape: str, device: str, dtype: torch.dtype) -> FrozenModel:
    """Return a model of random weights with the embedded tokenizer."""
    tokenizer, pad_with_end = load_tokenizer(BaseModelConfig(regime="r", path=TINY), Path())
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        # Random weights would end answers at random places, and every run elsewhere.
        eos_token_id=VOCABULARY - 1,
        **SHAPES[shape],
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    return FrozenModel(
        model, tokenizer, "random", 0.0, 4096, True, pad_with_end, fingerprint(model)
    )


def specs(count: int, batch_size: int, steps: int) -> list[AdapterSpec]:
    """Return adapters of mixed ranks and places."""
    return [
        AdapterSpec(
            method="lora",
            rank=1 + i % 8,
            target_modules=TARGETS[i % 3],
            learning_rate=1e-4,
            steps=steps,
            batch_size=batch_size,
            seed=i,
        )
        for i in range(count)
    ]


def training(frozen: FrozenModel, count: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Return seconds and speed of training one after the other and in a pack."""
    lesson = Lesson(TASK, "", TASK.splits.train)
    chosen = specs(count, batch_size, steps)
    seconds: dict[str, float] = {}
    losses: dict[str, list[float | None]] = {}
    tokens = 0
    for way in ("warm up", "separate", "packed"):
        began = synchronized()
        if way == "packed":
            jobs = [Job(*_beside(frozen, spec), lesson, steps) for spec in chosen]
            train_pack(frozen, jobs, Planner(pass_tokens(frozen)))
            losses[way] = [job.trained.loss for job in jobs]
            tokens = sum(job.tokens for job in jobs)
        else:
            losses[way] = []
            for spec in chosen[: 2 if way == "warm up" else None]:
                with installed(frozen, spec) as adapter:
                    losses[way].append(adapter.train(frozen, lesson, steps).loss)
        seconds[way] = synchronized() - began
    numbers = sum(p.numel() for p in frozen.model.parameters())
    pairs = zip(losses["separate"], losses["packed"], strict=True)
    return {
        "batch_size": batch_size,
        "separate_s": round(seconds["separate"], 2),
        "packed_s": round(seconds["packed"], 2),
        "faster": round(seconds["separate"] / seconds["packed"], 2),
        "packed_tokens_per_s": round(tokens / seconds["packed"]),
        # Forward, and back through frozen weights: four for each parameter and token.
        "packed_flops": 4 * numbers * tokens / seconds["packed"],
        "largest_difference_of_losses": max(abs((a or 0) - (b or 0)) for a, b in pairs),
    }


def _beside(frozen: FrozenModel, spec: AdapterSpec) -> Any:
    found = detached(frozen, spec)
    assert found is not None
    return found


def generation(frozen: FrozenModel, rows: int, new_tokens: int) -> dict[str, Any]:
    """Return tokens per second of rows with mixed adapters and of the same rows without."""
    changes: list[Changes] = []
    for spec in specs(16, 1, 1):
        adapter, change = _beside(frozen, spec)
        with torch.no_grad():
            for weight in adapter.weights.values():
                weight.normal_(0, 1e-3)
        changes.append(fixed(change))
    examples = (TASK.splits.search * rows)[:rows]
    ids = [frozen.tokenizer(TASK.ask(e.input))["input_ids"] for e in examples]
    speeds = {}
    for way, slots in (("warm up", changes), ("without", [{}] * 16), ("mixed", changes)):
        asked = [Asked(i % 16, tuple(own), new_tokens) for i, own in enumerate(ids)]
        began = synchronized()
        found = answer(frozen, slots, asked, Planner())
        speeds[way] = sum(map(len, found)) / (synchronized() - began)  # type: ignore[arg-type]
    return {
        "rows": rows,
        "tokens_per_s_without_adapters": round(speeds["without"]),
        "tokens_per_s_mixed_adapters": round(speeds["mixed"]),
        "share": round(speeds["mixed"] / speeds["without"], 3),
    }


def main() -> None:
    """Print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype)
    began = time.monotonic()
    peak = peak_flops(device, dtype)
    frozen = frozen_model(args.shape, device, dtype)
    trained = [training(frozen, args.candidates, size, args.steps) for size in (1, 2, 4)]
    for figures in trained:
        figures["share_of_matrix_peak"] = round(figures.pop("packed_flops") / peak, 4)
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
                "shape": args.shape,
                "dtype": args.dtype,
                "parameters": sum(p.numel() for p in frozen.model.parameters()),
                "matrix_peak_tflops": round(peak / 1e12, 2),
                "pass_tokens": pass_tokens(frozen),
                "training": trained,
                "generation": generation(frozen, 64, args.new_tokens),
                "unchanged": fingerprint(frozen.model) == frozen.fingerprint,
                "seconds": round(time.monotonic() - began, 1),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
