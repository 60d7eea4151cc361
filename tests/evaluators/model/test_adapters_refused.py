"""An adapter that PEFT refuses half-way leaves nothing on the frozen model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load, unchanged
from kilobit.evaluators.model.packing.deltas import detached
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import _tokenizer
from tests.support.architectures import build_model
from tests.support.packs import spec


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def state(frozen: FrozenModel) -> tuple[Any, ...]:
    """Return what an adapter could leave: modules, parameters, hooks, attributes."""
    modules = [
        (name, type(module), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in frozen.model.named_modules()
    ]
    parameters = [(name, w.requires_grad) for name, w in frozen.model.named_parameters()]
    return modules, parameters, sorted(vars(frozen.model)), unchanged(frozen)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "fourierft", "rank": None, "size": 9},
        {"method": "lora"},
        {"method": "vera"},
        {"method": "ia3", "rank": None},
        {"method": "lora_xs"},
    ],
)
def test_a_target_that_is_refused_half_way_leaves_nothing(
    frozen: FrozenModel, changes: dict[str, Any]
) -> None:
    before = state(frozen)
    one = spec(target_modules=("q_proj", "input_layernorm"), **changes)
    with pytest.raises((ValueError, TypeError, AttributeError, KeyError)), installed(frozen, one):
        pass
    assert state(frozen) == before
    if one.method != "fourierft":
        with pytest.raises((ValueError, TypeError, AttributeError, KeyError)):
            detached(frozen, one)
        assert state(frozen) == before


@pytest.mark.parametrize(
    "changes", [{}, {"method": "data", "size": 8}]
)
def test_memory_that_runs_out_half_way_leaves_nothing(
    frozen: FrozenModel, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    before, real, calls = state(frozen), torch.nn.init.kaiming_uniform_, []

    def tight(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **options)

    one = spec(target_modules=("q_proj", "v_proj", "down_proj"), **changes)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.init, "kaiming_uniform_", tight)
        with pytest.raises(torch.OutOfMemoryError), installed(frozen, one):
            pass
    assert state(frozen) == before


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lora", {}),
        ("lora_fa", {}),
        ("lora_xs", {}),
        ("tinylora", {"rank": None, "size": 5}),
        ("vera", {}),
        ("unilora", {"rank": None, "size": 8}),
        ("ia3", {"rank": None}),
        ("fourierft", {"rank": None, "size": 9}),
        ("ln_tuning", {"rank": None, "target_modules": ("norm",)}),
        ("soft_prompt", {"rank": None, "size": 3, "target_modules": None}),
        ("weights", {"rank": None, "target_modules": ("input_layernorm",)}),
    ],
)
def test_a_removed_adapter_leaves_nothing(
    frozen: FrozenModel, method: str, changes: dict[str, Any]
) -> None:
    before = state(frozen)
    with installed(frozen, spec(method=method, **changes)):
        assert method == "soft_prompt" or state(frozen) != before
    assert state(frozen) == before
