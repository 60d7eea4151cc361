"""Adapters and rows of several candidates, for packs."""

from collections.abc import Sequence
from typing import Any

from kilobit.evaluators.model.adapters import Adapter
from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.packing.decode import Asked
from kilobit.evaluators.model.packing.deltas import Changes, detached
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec

PROMPTS = ("", "Number:\n", "Answer with a number. " * 3)
TASK = load_miniature("numbers", 0)
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "stop": ("\n",)}
TARGETS = {
    "llama": (("q_proj", "down_proj"), ("v_proj",), ("input_layernorm",)),
    "gpt2": (("c_attn", "c_proj"), ("c_fc",), ("ln_1",)),
    "qwen2": (("o_proj", "up_proj"), ("k_proj",), ("norm",)),
}


def spec(**changes: Any) -> AdapterSpec:
    values = {
        "method": "lora",
        "rank": 2,
        "target_modules": ("q_proj",),
        "learning_rate": 0.003,
        "steps": 8,
        "batch_size": 3,
        "seed": 7,
    }
    given = values | changes
    return AdapterSpec.model_validate({k: v for k, v in given.items() if v is not None})


def beside(frozen: FrozenModel, one: AdapterSpec) -> tuple[Adapter, Changes]:
    found = detached(frozen, one)
    assert found is not None
    return found


def architecture(frozen: FrozenModel) -> str:
    return str(frozen.model.config.model_type)


def lessons(specs: Sequence[AdapterSpec]) -> list[Lesson]:
    return [Lesson(TASK, PROMPTS[i % 3], TASK.splits.train) for i in range(len(specs))]


def said(frozen: FrozenModel, found: Sequence[list[int] | Exception]) -> list[str]:
    assert not any(isinstance(row, Exception) for row in found)
    return [frozen.tokenizer.decode(row, skip_special_tokens=True) for row in found]


def texts(prompt: str) -> list[str]:
    return [prompt + TASK.ask(example.input) for example in TASK.splits.search[:4]]


def rows_of(frozen: FrozenModel, prompts: Sequence[str], soft: Sequence[int]) -> list[Asked]:
    """Return rows of the first examples for each slot with its prompt and its soft tokens."""
    rows = []
    for slot, (prompt, size) in enumerate(zip(prompts, soft, strict=True)):
        for text in texts(prompt):
            ids = frozen.tokenizer(text, add_special_tokens=frozen.special_tokens)["input_ids"]
            whole = (*(-1 - i for i in range(size)), *ids)
            rows.append(Asked(slot, whole, OPTIONS["max_new_tokens"], OPTIONS["stop"]))
    return rows


def mixed(architecture: str) -> list[AdapterSpec]:
    """Return adapters of all kinds, ranks, rates, lengths, batch sizes and seeds."""
    some, one, norm = TARGETS[architecture]
    return [
        spec(target_modules=some),
        spec(target_modules=one, rank=4, learning_rate=0.01, steps=5, batch_size=1, seed=3),
        spec(method="lora_fa", target_modules=some, seed=4),
        spec(method="lora_xs", target_modules=one, rank=3),
        spec(method="tinylora", target_modules=one, rank=None, size=5),
        spec(method="vera", target_modules=one, rank=4, learning_rate=0.01),
        spec(method="unilora", target_modules=some, rank=None, size=8),
        spec(method="ia3", target_modules=some, rank=None),
        spec(method="ln_tuning", target_modules=norm, rank=None),
        spec(method="soft_prompt", target_modules=None, rank=None, size=3),
        spec(target_modules=some, training="rate", nats_per_kbit=0.01),
        spec(target_modules=one, training="bits", nats_per_kbit=0.01),
        spec(method="steering", target_modules=some, rank=None),
        spec(method="coordinates", target_modules=some, rank=None, size=40, draws=(2,)),
        spec(method="seeds", target_modules=some, rank=1, draws=(1, 4, 9)),
    ]
