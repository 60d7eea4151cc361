"""Folders of adapters as plain PEFT saves them, with random numbers in them."""

import json
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kilobit.search.task import Task

# Adapters that are taken over, each in a form of its own: PEFT's class and its arguments.
SUPPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 2, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}),
    "rslora": ("LoraConfig", {"r": 4, "use_rslora": True, "target_modules": ["down_proj"]}),
    "ranks": (
        "LoraConfig",
        {
            "r": 1,
            "target_modules": ["q_proj", "o_proj"],
            "rank_pattern": {"o_proj": 3},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 5},
        },
    ),
    "layers": ("LoraConfig", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "pattern": ("LoraConfig", {"target_modules": r".*\.0\.(self_attn\.q|mlp\.down)_proj"}),
    "excluded": (
        "LoraConfig",
        {"target_modules": ["q_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
    ),
    "ia3": ("IA3Config", {"target_modules": ["v_proj", "down_proj"], "feedforward_modules": []}),
    "ln_tuning": ("LNTuningConfig", {"target_modules": ["input_layernorm", "norm"]}),
    "prompt_tuning": ("PromptTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
}


def save_adapter(model: Path, folder: Path, kind: str = "lora", size: float = 0.5) -> Path:
    """Write an adapter of a kind of `SUPPORTED` by PEFT alone; its numbers are drawn at random."""
    name, arguments = SUPPORTED[kind]
    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = peft.get_peft_model(base, getattr(peft, name)(**arguments))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> Path:
    """Change entries of the configuration in a folder."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")
    return folder


def change_tensors(folder: Path, **changes: Any) -> Path:
    """Replace the first tensor whose name contains a key; None takes it away."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for part, value in changes.items():
        name = next((name for name in tensors if part in name), part)
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, file)
    return folder


def train_adapter(model: Path, folder: Path, task: Task, steps: int = 15) -> Path:
    """Write a LoRA that plain PEFT and torch trained on a task, on answers after the question."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model)
    modules = ["v_proj", "down_proj"]
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=1, target_modules=modules))
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.01)
    for step in range(steps):
        for example in task.splits.train[8 * step : 8 * step + 8]:
            asked = tokenizer(task.ask(example.input))["input_ids"]
            answer = tokenizer(task.show(example.target), add_special_tokens=False)["input_ids"]
            ids = torch.tensor([asked + answer])
            labels = torch.tensor([[-100] * len(asked) + answer])
            adapted(input_ids=ids, labels=labels).loss.div(8).backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.save_pretrained(folder)
    return folder
