"""Adapters whose numbers change base weights along directions that are drawn from noise.

program.py adds the changes to the weights (`kilobit.search.programs.script`). Here the weights stay
as they are: a change is a low-rank update of its module's output, so that it can be trained, and
shares passes with others. The two differ by the rounding of sums only.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from kilobit.search.programs.recipe import NoisePart
from kilobit.search.streams import noise_signs, noise_words

Factors = tuple[torch.Tensor, torch.Tensor]
# Left and right factor of a weight's update, and the number of each of their components.
_Sides = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def chosen_weights(model: Any, noise: NoisePart) -> dict[str, torch.Tensor]:
    """Return the weights that may change by the names of their modules, in the model's order.

    Raises:
        ValueError: if there is none, or one is no matrix of plain numbers.
    """
    found = {
        name.removesuffix(".weight"): weight
        for name, weight in model.named_parameters()
        if re.search(noise.pattern, name)
    }
    if not found:
        where = "" if noise.layers is None else f" in the layers {list(noise.layers)}"
        raise ValueError(f"no module of the model is called one of {list(noise.targets)}{where}")
    for name, weight in found.items():
        if weight.dim() != 2 or not weight.is_floating_point():
            raise ValueError(f"{name} is quantised or no matrix, so noise can't be added to it")
    return found


def directions(
    model: Any, noise: NoisePart, numbers: torch.Tensor
) -> dict[str, Callable[[], Factors]]:
    """Return, for each module that changes, what returns its update's factors.

    The factors are `down` [rank, in] and `up` [out, rank]; gradients flow from them to `numbers`,
    which has one number a direction, in the order of the draws.
    """
    weights = chosen_weights(model, noise)
    sides = _coordinates(weights, noise) if noise.rank is None else _signs(weights, noise)
    return {
        # Of a Conv1D the rows of the weight are inputs.
        name: partial(_factors, own, numbers, isinstance(model.get_submodule(name), Conv1D))
        for name, own in sides.items()
    }


def _factors(own: _Sides, numbers: torch.Tensor, turned: bool) -> Factors:
    """Return the factors of the update `left diag(numbers[of]) right` of a weight."""
    left, right, of = (side.to(numbers.device) for side in own)
    left = left * numbers[of]
    return (left.T, right.T) if turned else (right, left)


def _signs(weights: Mapping[str, torch.Tensor], noise: NoisePart) -> dict[str, _Sides]:
    rank, found = noise.rank or 0, {}
    for place, (name, weight) in enumerate(weights.items()):
        rows, columns = weight.shape
        lefts, rights = [], []
        for seed in noise.draws:
            signs = torch.from_numpy(noise_signs(seed, place, rank * (rows + columns))).float()
            lefts.append(signs[: rank * rows].view(rows, rank))
            rights.append(signs[rank * rows :].view(rank, columns))
        of = torch.arange(len(noise.draws)).repeat_interleave(rank)
        found[name] = torch.cat(lefts, 1), torch.cat(rights), of
    return found


def _coordinates(weights: Mapping[str, torch.Tensor], noise: NoisePart) -> dict[str, _Sides]:
    names, places, size = list(weights), dict[str, list[tuple[int, int]]](), noise.size or 0
    for draw, seed in enumerate(noise.draws):
        words = noise_words(seed, 0, 2 * size).reshape(-1, 2).tolist()
        for number, (which, at) in enumerate(words):
            name = names[which % len(names)]
            place = at % weights[name].numel()
            places.setdefault(name, []).append((draw * size + number, place))
    found = {}
    for name, chosen in places.items():
        rows, columns = weights[name].shape
        of, at = torch.tensor(chosen).T
        left, right = torch.zeros(rows, len(at)), torch.zeros(len(at), columns)
        left[at // columns, torch.arange(len(at))] = 1
        right[torch.arange(len(at)), at % columns] = 1
        found[name] = left, right, of
    return found


@contextmanager
def with_noise(model: Any, noise: NoisePart) -> Iterator[torch.nn.Parameter]:
    """Change a model along directions of noise until the end, and yield its numbers, all zero.

    They are on the model as its parameter `numbers`, as program.py has them.

    Raises:
        ValueError: if the model has no such weight.
    """
    numbers = torch.nn.Parameter(
        torch.zeros(len(noise.draws) * (noise.size or 1), device=model.device)
    )
    found, handles = directions(model, noise, numbers), []
    try:
        model.register_parameter("numbers", numbers)
        for name, factors in found.items():
            hook = partial(_changed, factors)
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield numbers
    finally:
        for handle in handles:
            handle.remove()
        if "numbers" in model._parameters:  # noqa: SLF001 - torch has no other way to remove one
            del model.numbers


def _changed(factors: Callable[[], Factors], module: Any, args: Any, output: Any) -> torch.Tensor:
    down, up = factors()
    found: torch.Tensor = (output + args[0].to(down.dtype) @ down.T @ up.T).to(output.dtype)
    return found
