"""Changes that an adapter makes to a base model, extracted from PEFT's modules.

PEFT builds the adapter, so that its numbers start as they do in program.py, and is then removed
from the model. This keeps the adapter's numbers and, for each module that it changes, a `Change`:
how the numbers change the module's output. Any number of such adapters can then run on the same
model at once, each on its own rows (`kilobit.evaluators.model.packing.pack`).

The change is a low-rank update for `lora`, `lora_fa`, `lora_xs`, `tinylora`, `vera` and `unilora`,
a factor for each output for `ia3`, a replacement of the norm for `ln_tuning`, and a few vectors
before the text for `soft_prompt`. The changes of the other methods have no such form: their
candidates run alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.search.adapter_methods import AdapterSpec

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


Change = LowRank | Scaling | Replaced | SoftPrompt
# Keyed by the module's name in the base model; a soft prompt has the key "".
Changes = dict[str, Change]


def detached(frozen: FrozenModel, spec: AdapterSpec) -> tuple[Adapter, Changes] | None:
    """Return an untrained adapter, detached from its base model, and its changes to the model.

    None if its changes can't run in one pass with rows of other candidates.

    Raises:
        ValueError: if the model has no module or weight that the adapter targets.
    """
    if spec.method in ("weights", "data", "fourierft", "trainable_tokens"):
        return None
    with frozen.shard.skeleton(frozen, spec) as base, installed(base, spec) as adapter:
        changes = _changes(adapter.model, spec)
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
    middle = module._compute_R("default")  # noqa: SLF001 - PEFT has no public name for it
    return module.tinylora_A["default"], module.tinylora_B["default"] @ middle


def _unilora(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    down, up = module._get_lora_matrices("default")  # noqa: SLF001 - PEFT has no public name for it
    return down, up


_FACTORS = {
    "lora": _lora,
    "lora_fa": _lora,
    "lora_xs": _svd,
    "tinylora": _svd,
    "vera": _vera,
    "unilora": _unilora,
}
