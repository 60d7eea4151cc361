"""Upper bounds of a candidate's payload, known before anything is trained.

A prompt counts as coded by the best general codec; coded by the model it may be shorter. Numbers
count 16 bits each: no coding that a search chooses takes more.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate
from kilobit.search.programs.text import compress
from kilobit.search.task import Task

Shapes = Mapping[str, tuple[int, ...]]
_BITS_A_NUMBER = 16
_LAYER = re.compile(r"\.(\d+)\.")


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters of a model, by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def bound_bits(candidate: Candidate, task: Task, shapes: Shapes | None) -> int | None:
    """Return an upper bound of a candidate's payload in bits.

    Args:
        candidate: any candidate.
        task: the task to solve.
        shapes: shapes of its base model's parameters, None if unknown on this machine.

    Returns:
        The bound; None for an adapter if `shapes` is unknown.
    """
    text = candidate.prompt.render(task).encode()
    bits = 8 * min(map(len, compress(text).values())) if text else 0
    spec = candidate.adapter
    if spec is None:
        return bits
    if spec.method == "data":
        shown = task.splits.train[: spec.size]
        lesson = "".join(task.ask(e.input) + task.show(e.target) for e in shown).encode()
        return bits + 8 * min(map(len, compress(lesson).values()))
    return None if shapes is None else bits + _BITS_A_NUMBER * count_numbers(spec, shapes)


def count_numbers(spec: AdapterSpec, shapes: Shapes) -> int:
    """Return the number of numbers that an adapter trains."""
    rank, size = spec.rank or 0, spec.size or 0
    hidden = max((shape[1] for name, shape in shapes.items() if "embed" in name), default=0)
    whole: dict[str, Callable[[], int]] = {
        "tinylora": lambda: size,
        "unilora": lambda: size,
        "soft_prompt": lambda: size * hidden,
        "trainable_tokens": lambda: len(spec.tokens or ()) * hidden,
    }
    if spec.method in whole:
        return whole[spec.method]()
    each: dict[str, Callable[[tuple[int, ...]], int]] = {
        "lora": lambda shape: rank * sum(shape),
        "lora_fa": lambda shape: rank * shape[0],
        "lora_xs": lambda shape: rank * rank,
        "vera": lambda shape: rank + shape[0],
        "fourierft": lambda shape: size,
        "ia3": lambda shape: shape[0],
        "ln_tuning": math.prod,
        "weights": math.prod,
    }
    found = [shape for name, shape in shapes.items() if _is_target(name, spec)]
    return sum(map(each[spec.method], found))


def _is_target(name: str, spec: AdapterSpec) -> bool:
    targets = spec.target_modules or ()
    if spec.method == "weights":
        return any(target in name for target in targets)
    module, _, kind = name.rpartition(".")
    layer = _LAYER.search(name)
    inside = spec.layers is None or (layer is not None and int(layer[1]) in spec.layers)
    return kind == "weight" and module.split(".")[-1] in targets and inside
