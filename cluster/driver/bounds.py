"""Upper bounds of a candidate's payload, known before anything is trained.

A prompt counts as coded by the best general codec; coded by the model it may be shorter. Numbers
count 16 bits each: no coding that a search chooses takes more.
"""

from collections.abc import Mapping
from typing import Any

from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate
from kilobit.search.programs.text import compress
from kilobit.search.task import Task

Shapes = Mapping[str, tuple[int, ...]]
_BITS_A_NUMBER = 16


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
    if spec.traits.examples:
        shown = task.splits.train[: spec.size]
        lesson = "".join(task.ask(e.input) + task.show(e.target) for e in shown).encode()
        return bits + 8 * min(map(len, compress(lesson).values()))
    return None if shapes is None else bits + _BITS_A_NUMBER * count_numbers(spec, shapes)


def count_numbers(spec: AdapterSpec, shapes: Shapes) -> int:
    """Return the number of numbers that an adapter trains."""
    method = spec.traits
    if method.once:
        width = max((shape[1] for name, shape in shapes.items() if "embed" in name), default=0)
        return method.numbers(spec, (width,))
    return sum(method.numbers(spec, s) for name, s in shapes.items() if _is_trained(name, spec))


def _is_trained(name: str, spec: AdapterSpec) -> bool:
    if spec.traits.place == "parameters":
        return any(target in name for target in spec.target_modules or ())
    module, _, kind = name.rpartition(".")
    return kind == "weight" and spec.targets(module)
