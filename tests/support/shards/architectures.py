"""Kinds of candidates that are tried on every architecture, and what is refused beforehand."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kilobit.evaluators.model.adapter_check import check_family, check_in_packs, runs
from kilobit.evaluators.model.packing.probe import outline
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.settings import InputError
from kilobit.search.space import Families
from tests.support.models import ARCHITECTURES, Architecture
from tests.support.packs import spec

# Those that are tried on quantised models only.
MORE = ("TinyLoRA", "Uni-LoRA", "VeRA", "FourierFT", "tokens", "weights of norms")
KINDS = (
    *("prompt", "LoRA, attention", "LoRA, MLP", "IA3", "steering"),
    *("LN tuning", "soft prompt", "LoRA-XS"),
)


def spec_of(kind: str, about: Architecture) -> AdapterSpec | None:
    fast = {"steps": 3, "batch_size": 2, "learning_rate": 0.01}
    shapes: dict[str, dict[str, Any]] = {
        "LoRA, attention": {"target_modules": (about.attention,)},
        "LoRA, MLP": {"target_modules": (about.mlp,)},
        "IA3": {"method": "ia3", "rank": None, "target_modules": (about.attention,)},
        "steering": {"method": "steering", "rank": None, "target_modules": (about.mlp,)},
        "LN tuning": {"method": "ln_tuning", "rank": None, "target_modules": (about.norm,)},
        "soft prompt": {"method": "soft_prompt", "rank": None, "target_modules": None, "size": 2},
        "LoRA-XS": {"method": "lora_xs", "target_modules": (about.attention,)},
    }
    tiny = {"rank": None, "size": 4, "target_modules": (about.attention,)}
    shapes |= {
        name: {**tiny, "method": method}
        for name, method in (("TinyLoRA", "tinylora"), ("Uni-LoRA", "unilora"))
    }
    shapes |= {
        "VeRA": {"method": "vera", "target_modules": (about.attention,)},
        "FourierFT": {**tiny, "method": "fourierft"},
        "tokens": {
            "method": "trainable_tokens", "rank": None, "target_modules": None, "tokens": (5, 6)
        },
        "weights of norms": {
            "method": "weights", "rank": None, "target_modules": (about.norm,)
        },
    }  # fmt: skip
    return None if kind == "prompt" else spec(**fast, **shapes[kind])


def on_meta(name: str, **changes: Any) -> Any:
    """Return a model of an architecture on the meta device."""
    about = ARCHITECTURES[name]
    values = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None} | about.values
    values.pop("padded", None)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(about.kind, vocab_size=600, **values | changes)
        )


def is_refused(name: str, one: AdapterSpec | None, *, split: bool = False) -> bool:
    """Return whether an adapter is refused before a search; `split`: on a split model."""
    model, method = on_meta(name), "prompt" if one is None else one.method
    listed: dict[str, Any] = {}
    if one is not None:
        fields = ("target_modules", "rank", "size", "tokens")
        shape = {field: getattr(one, field) for field in fields}
        listed = {field: [value] for field, value in shape.items() if value is not None}
    families = Families.model_validate({method: {"candidates": 1, **listed}})
    family, run = families.named()[method], runs(model)
    try:
        check_family(method, family, model, name, run=run)
        if split:
            check_in_packs(method, family, model, outline(model), name)
    except InputError:
        return True
    return False


def written(page: Path, heading: str, line: str, *, update: bool) -> bool:
    """Return whether a row is in the table below a heading; `update`: put it there first."""
    text = page.read_text("utf-8")
    start = text.index("\n|---", text.index(f"{heading}\n")) + 1
    start = text.index("\n", start) + 1
    end = text.find("\n\n", start) + 1 or len(text)
    rows = text[start:end].splitlines()
    if update:
        name = line.split("|")[1]
        rows = sorted([*(row for row in rows if row.split("|")[1] != name), line])
        page.write_text(text[:start] + "\n".join(rows) + "\n" + text[end:], "utf-8")
    return line in rows
