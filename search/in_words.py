"""Descriptions of a candidate, in a line and in full, from its canonical JSON in the ledger.

JSON of another version is accepted unchecked: missing fields are left out of the description.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def in_short(spec: Mapping[str, Any]) -> str:
    """Return a candidate in one line, for example `lora rank 1 on down_proj in 90 steps`."""
    parts = []
    adapter = spec.get("adapter")
    if adapter:
        parts.append(_adapter(adapter))
    prompt = spec.get("prompt") or {}
    if prompt.get("instruction"):
        parts.append("an instruction")
    shown = len(prompt.get("demonstrations") or ())
    if shown:
        parts.append(f"{shown} demonstration{'s' * (shown > 1)}")
    if spec.get("chat"):
        parts.append("chat template")
    if spec.get("max_new_tokens"):
        parts.append(f"at most {spec['max_new_tokens']} tokens")
    if spec.get("postprocess"):
        parts.append(f"output: {_list(spec['postprocess'])}")
    return "; ".join(parts) or "the question alone"


def _adapter(adapter: Mapping[str, Any]) -> str:
    words = [str(adapter.get("method", "adapter"))]
    words += [f"{name} {adapter[name]}" for name in ("rank", "size") if adapter.get(name)]
    if adapter.get("target_modules"):
        words.append(f"on {_list(adapter['target_modules'])}")
    if adapter.get("layers"):
        words.append(f"of layers {_list(adapter['layers'])}")
    if adapter.get("tokens"):
        words.append(f"of {len(adapter['tokens'])} tokens")
    if adapter.get("steps"):
        words.append(f"in {adapter['steps']} steps")
    if adapter.get("training", "plain") != "plain":
        words.append(f"trained for {adapter['training']}")
    if adapter.get("step"):
        words.append(f"rounded to {adapter['step']:g}")
    if adapter.get("keep"):
        words.append(f"{adapter['keep']:g} of its ranks")
    return " ".join(words)


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def prompt_of(spec: Mapping[str, Any]) -> str:
    """Return the texts of a candidate's prompt, without the task's template."""
    prompt = spec.get("prompt") or {}
    instruction = prompt.get("instruction") or ""
    lines = [str(instruction)] if instruction else []
    lines += [f"{asked}\n{answer}" for asked, answer in prompt.get("demonstrations") or ()]
    return "\n".join(lines)
