"""Changes that an adapter makes to a base model, extracted from PEFT's modules.

PEFT builds the adapter, so that its numbers start as they do in program.py, and is then removed
from the model. This keeps the adapter's numbers and, for each module that it changes, a `Change`:
how the numbers change the module's output. Any number of such adapters can then run on the same
model at once, each on its own rows (`kilobit.evaluators.model.packing.pack`).

`_CHANGES` has the changes of each method: low-rank updates, a factor for each output or
what is added to it, another norm, or a few vectors before the text. The changes of a method that is
not there have no such form: its candidates run alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.packing.noise import directions
from kilobit.search.adapter_methods import METHODS, AdapterSpec
from kilobit.search.programs.recipe import NoisePart, noise_part

# PEFT's prefix of the names of the base model's modules.
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LowRank:
    """Low-rank update: adds `up down x` to the output for input x.

    Attributes:
        factors: returns `down` [rank, in] and `up` [out, rank].
    """

    factors: Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Scaling:
    """Scaling of a module's output.

    Attributes:
        factor: returns a factor for each number of the output, shape [out].
    """

    factor: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Shift:
    """Shift of a module's output.

    Attributes:
        vector: returns what is added to each number of the output, shape [out].
    """

    vector: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Replaced:
    """Replacement of a module by another one."""

    module: nn.Module


@dataclass(frozen=True)
class SoftPrompt:
    """Trained vectors in place of the first embeddings.

    Attributes:
        vectors: returns the vectors, shape [size, width].
    """

    vectors: Callable[[], torch.Tensor]


Change = LowRank | Scaling | Shift | Replaced | SoftPrompt
# Keyed by the module's name in the base model; a soft prompt has the key "".
Changes = dict[str, Change]


def detached(frozen: FrozenModel, spec: AdapterSpec) -> tuple[Adapter, Changes] | None:
    """Return an untrained adapter, detached from its base model, and its changes to the model.

    None if its changes can't run in one pass with rows of other candidates.

    Raises:
        ValueError: if the model has no module or weight that the adapter targets.
    """
    changes_of, noise = _CHANGES.get(spec.method), noise_part(spec)
    if noise is not None:
        changes_of = partial(_along_noise, noise)
    if changes_of is None:
        return None
    with frozen.shard.skeleton(frozen, spec) as base, installed(base, spec) as adapter:
        changes = changes_of(adapter.model)
        if changes is not None:
            adapter.model = None
    return None if changes is None else (adapter, changes)


@torch.no_grad()
def fixed(changes: Changes) -> Changes:
    """Return a copy of `changes` that later training or assignment of numbers does not affect."""
    return {name: _fixed(change) for name, change in changes.items()}


def _fixed(change: Change) -> Change:
    if isinstance(change, LowRank):
        down, up = (factor.detach().clone() for factor in change.factors())
        return LowRank(lambda: (down, up))
    if isinstance(change, Scaling):
        factor = change.factor().detach().clone()
        return Scaling(lambda: factor)
    if isinstance(change, Shift):
        vector = change.vector().detach().clone()
        return Shift(lambda: vector)
    if isinstance(change, SoftPrompt):
        vectors = change.vectors().detach().clone()
        return SoftPrompt(lambda: vectors)
    # Clone the weights, which are few in a norm: `deepcopy` would also copy the gradients.
    state = {name: value.detach().clone() for name, value in change.module.state_dict().items()}
    return Replaced(_WithState(change.module, state))


class _WithState(nn.Module):
    """Wrapper that runs a module with given weights instead of its own."""

    def __init__(self, module: nn.Module, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._of, self._state = [module], state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(self._of[0], self._state, (x,))
        return found


_Factors = tuple[torch.Tensor, torch.Tensor]


def _soft_prompt(model: Any) -> Changes:
    weight = model.prompt_encoder["default"].embedding.weight
    return {"": SoftPrompt(lambda: weight)}


def _of_modules(model: Any, change: Callable[[Any], Change], *kinds: type) -> Changes | None:
    """Return the change of each module that PEFT adapts, None if one is of none of the kinds."""
    modules = {
        name.removeprefix(_PREFIX): module
        for name, module in model.named_modules()
        if hasattr(module, "base_layer")
    }
    if not all(isinstance(module.get_base_layer(), kinds) for module in modules.values()):
        return None
    return {name: change(module) for name, module in modules.items()}


def _norms(model: Any) -> Changes | None:
    return _of_modules(model, lambda norm: Replaced(norm.ln_tuning_layers["default"]), nn.Module)


def _scaling(model: Any) -> Changes | None:
    return _of_modules(model, lambda m: Scaling(m.ia3_l["default"].flatten), nn.Linear, Conv1D)


def _shift(model: Any) -> Changes | None:
    def change(module: Any) -> Shift:
        bias, scaling = module.lora_B["default"].bias, module.scaling["default"]
        return Shift(lambda: bias * scaling)

    return _of_modules(model, change, nn.Linear, Conv1D)


def _along_noise(noise: NoisePart, model: Any) -> Changes | None:
    found = directions(model, noise, model.numbers)
    if not all(isinstance(model.get_submodule(name), nn.Linear | Conv1D) for name in found):
        return None
    return {name: LowRank(factors) for name, factors in found.items()}


def _low_rank(factors: Callable[[Any], _Factors], model: Any) -> Changes | None:
    return _of_modules(model, lambda m: LowRank(lambda: factors(m)), nn.Linear, Conv1D)


def _lora(module: Any) -> _Factors:
    down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
    return down, up * module.scaling["default"]


def _vera(module: Any) -> _Factors:
    down = module.vera_A["default"][:, : module.in_features]
    up = module.vera_B["default"][: module.out_features]
    inner, outer = module.vera_lambda_d["default"], module.vera_lambda_b["default"]
    return inner[:, None] * down, outer[:, None] * up


def _svd(module: Any) -> _Factors:
    middle = module._compute_R("default")  # noqa: SLF001 - PEFT has no public name for it
    return module.tinylora_A["default"], module.tinylora_B["default"] @ middle


def _unilora(module: Any) -> _Factors:
    down, up = module._get_lora_matrices("default")  # noqa: SLF001 - PEFT has no public name for it
    return down, up


_CHANGES: dict[str, Callable[[Any], Changes | None]] = {
    "lora": partial(_low_rank, _lora),
    "lora_fa": partial(_low_rank, _lora),
    "lora_xs": partial(_low_rank, _svd),
    "tinylora": partial(_low_rank, _svd),
    "vera": partial(_low_rank, _vera),
    "unilora": partial(_low_rank, _unilora),
    "ia3": _scaling,
    "steering": _shift,
    "ln_tuning": _norms,
    "soft_prompt": _soft_prompt,
}
# The methods whose adapters run beside the model.
PACKED_METHODS = frozenset(_CHANGES) | {n for n, m in METHODS.items() if m.place == "noise"}
