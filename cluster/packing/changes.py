"""What an adapter changes in a base model, taken from PEFT's modules and kept beside the model.

PEFT builds an adapter, so that its numbers begin as they do in program.py, and is taken off the
model again. What remains is the adapter with its numbers and, for each module that it changes, how
the numbers change the output of that module. Any number of such adapters can then work on the same
model at once, each on rows of its own (`cluster.packing.pack`).

Of `lora`, `lora_fa`, `lora_xs`, `tinylora`, `vera` and `unilora` the change is a low-rank update,
of `ia3` a factor for each output, of `ln_tuning` another norm in its place, of `soft_prompt` a few
vectors before the text. What the other methods change has no such form: they run alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from cluster.adapters import Adapter, installed
from cluster.frozen import Frozen
from cluster.shards.outline import outlined
from search.adapter import AdapterSpec

# Where PEFT puts the base model in its own.
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LowRank:
    """Adds `up down x` to the output for input x; gives factors [rank, in] and [out, rank]."""

    factors: Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Scaling:
    """Multiplies the output; gives a factor for each of its numbers, shape [out]."""

    factor: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Replaced:
    """Another module works in its place."""

    module: nn.Module


@dataclass(frozen=True)
class SoftPrompt:
    """Puts vectors in the place of the first embeddings; gives shape [size, width]."""

    vectors: Callable[[], torch.Tensor]


Change = LowRank | Scaling | Replaced | SoftPrompt
# By the name of the module in the base model; a soft prompt stands under "".
Changes = dict[str, Change]


def detached(frozen: Frozen, spec: AdapterSpec) -> tuple[Adapter, Changes] | None:
    """Return an untrained adapter beside its base model, and what it changes there.

    None if what it changes has no form that rows of other candidates can be mixed with.

    Raises:
        ValueError: if the model has no place for the adapter.
    """
    if spec.method in ("weights", "data", "fourierft", "trainable_tokens"):
        return None
    with outlined(frozen, spec) as base, installed(base, spec) as adapter:
        changes = _changes(adapter.model, spec)
        if changes is not None:
            adapter.model = None
    return None if changes is None else (adapter, changes)


@torch.no_grad()
def fixed(changes: Changes) -> Changes:
    """Return `changes` as they are now; training or assigning numbers leaves them alone."""
    return {name: _fixed(change) for name, change in changes.items()}


def _fixed(change: Change) -> Change:
    if isinstance(change, LowRank):
        down, up = (factor.detach().clone() for factor in change.factors())
        return LowRank(lambda: (down, up))
    if isinstance(change, Scaling):
        factor = change.factor().detach().clone()
        return Scaling(lambda: factor)
    if isinstance(change, SoftPrompt):
        vectors = change.vectors().detach().clone()
        return SoftPrompt(lambda: vectors)
    # The weights of a norm are few; `deepcopy` would also copy the gradients.
    state = {name: value.detach().clone() for name, value in change.module.state_dict().items()}
    return Replaced(_WithState(change.module, state))


class _WithState(nn.Module):
    """A module with other weights than its own."""

    def __init__(self, module: nn.Module, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._of, self._state = [module], state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(self._of[0], self._state, (x,))
        return found


def _changes(model: Any, spec: AdapterSpec) -> Changes | None:
    if spec.method == "soft_prompt":
        weight = model.prompt_encoder["default"].embedding.weight
        return {"": SoftPrompt(lambda: weight)}
    found: Changes = {}
    for name, module in model.named_modules():
        if not hasattr(module, "base_layer"):
            continue
        change = _change(module, spec)
        if change is None:
            return None
        found[name.removeprefix(_PREFIX)] = change
    return found


def _change(module: Any, spec: AdapterSpec) -> Change | None:
    if spec.method == "ln_tuning":
        return Replaced(module.ln_tuning_layers["default"])
    if not isinstance(module.get_base_layer(), nn.Linear | Conv1D):
        return None
    if spec.method == "ia3":
        return Scaling(module.ia3_l["default"].flatten)
    return LowRank(lambda: _FACTORS[spec.method](module))


def _lora(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
    return down, up * module.scaling["default"]


def _vera(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    down = module.vera_A["default"][:, : module.in_features]
    up = module.vera_B["default"][: module.out_features]
    inner, outer = module.vera_lambda_d["default"], module.vera_lambda_b["default"]
    return inner[:, None] * down, outer[:, None] * up


def _svd(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    middle = module._compute_R("default")  # noqa: SLF001 - PEFT has no other name for it
    return module.tinylora_A["default"], module.tinylora_B["default"] @ middle


def _unilora(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    down, up = module._get_lora_matrices("default")  # noqa: SLF001 - PEFT has no other name for it
    return down, up


_FACTORS = {
    "lora": _lora,
    "lora_fa": _lora,
    "lora_xs": _svd,
    "tinylora": _svd,
    "vera": _vera,
    "unilora": _unilora,
}
