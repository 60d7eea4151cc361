"""A resident model is the same after any number of adapters."""

import gc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.worker import resident as resident_module
from kilobit.cluster.worker.resident import Resident, Training
from kilobit.evaluators.model import adapters as adapters_module
from kilobit.evaluators.model import generate as generate_module
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.generate import generate
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.packing import probe as probe_module
from kilobit.evaluators.model.packing.decode import Asked
from kilobit.evaluators.model.packing.probe import Probe
from kilobit.search.base_model import BaseModelConfig, Quantization
from tests.conftest import random_numbers
from tests.support.packs import TASK, mixed, rows_of, spec


@pytest.fixture
def resident(model_folders: dict[str, Path]) -> Resident:
    config = BaseModelConfig(regime="r", path=model_folders["llama"])
    return Resident(RankAddress(), config, Path(), ShardsConfig(), TASK, 1)


def tensors() -> int:
    gc.collect()
    return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())


def swap(resident: Resident, times: int) -> None:
    """Train, score and forget adapters, `times` of them."""
    kinds = mixed("llama")
    for number in range(times):
        one = kinds[number % len(kinds)]
        assert resident.adapt("a", one, None, None)
        (end,) = resident.train([Training("a", "", False, 1)])
        assert end.error is None
        resident.fix("s", "a", random_numbers(resident.adapter("a"), number))
        size = one.size or 0 if one.method == "soft_prompt" else 0
        resident.answer(["s"], rows_of(resident.frozen, [""], [size])[:1])
        resident.forget()


def test_two_hundred_adapters_leave_nothing_behind(resident: Resident) -> None:
    swap(resident, 24)
    before, used = tensors(), psutil.Process().memory_info().rss
    swap(resident, 200)
    assert tensors() == before
    # Allocators keep some pages; 200 adapters that stayed would be far more.
    assert psutil.Process().memory_info().rss - used < 20e6
    assert resident.unchanged()
    assert weights_digest(resident.frozen.model) == resident.frozen.digest
    assert not any(module._forward_hooks for module in resident.frozen.model.modules())
    assert not any(parameter.requires_grad for parameter in resident.frozen.model.parameters())


def test_candidates_that_fail_leave_nothing_behind(resident: Resident) -> None:
    before = tensors()
    for _ in range(3):
        with pytest.raises(ValueError, match="nosuch"):
            resident.adapt("a", spec(target_modules=("nosuch",)), None, None)
        assert resident.adapt("b", spec(learning_rate=1e30), None, None)
        (end,) = resident.train([Training("b", "", False, 8)])
        assert isinstance(end.error, FloatingPointError)
        with pytest.raises(ValueError, match="other shapes than the adapter"):
            resident.fix("s", "b", [np.zeros((1, 1), np.float32)])
        resident.forget()
    del end
    assert tensors() == before
    assert resident.unchanged()


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_what_depends_on_the_base_model_alone_is_computed_once(
    model_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    quantization: Quantization | None,
) -> None:
    calls: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return real(*args, **options)

        monkeypatch.setattr(module, name, counted)

    for module, name in (
        (torch.linalg, "svd"),
        (adapters_module, "dequantize_module_weight"),
        (generate_module, "StopStringCriteria"),
        (probe_module, "_probed"),
    ):
        count(module, name)
    config = BaseModelConfig(regime="r", path=model_folders["llama"], quantization=quantization)
    resident = Resident(RankAddress(), config, Path(), ShardsConfig(), TASK, 1)
    rows = [replace(row, stop=("\n",)) for row in rows_of(resident.frozen, [""], [0])[:2]]
    for rung in range(3):
        for seed in range(3):
            assert resident.adapt("a", spec(method="lora_xs", seed=seed), None, None)
            (end,) = resident.train([Training("a", "", False, rung + 1)])
            assert end.error is None
            resident.fix("s", "a", random_numbers(resident.adapter("a"), rung))
            resident.answer(["s"], rows)
            resident.forget()
            # As program.py does.
            prompts = ["a", "b"]
            generate(resident.frozen, prompts, max_new_tokens=2, stop=("\n",), batch_size=1)
    adapted = sum(name.endswith("q_proj") for name, _ in resident.frozen.model.named_modules())
    once = {"svd": adapted, "StopStringCriteria": 1, "_probed": 1}
    assert calls == once | ({"dequantize_module_weight": adapted} if quantization else {})


def test_a_split_model_on_which_candidates_run_alone_is_refused(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, shards = BaseModelConfig(regime="r", path=model_folders["llama"]), ShardsConfig()
    frozen = load(config, Path())
    monkeypatch.setattr(resident_module, "load_sharded", lambda *_: frozen)
    monkeypatch.setattr(resident_module, "probe", lambda _: Probe("tried"))
    Resident(RankAddress(), config, Path(), shards, TASK, 1)
    with pytest.raises(ValueError, match="can't do: tried"):
        Resident(RankAddress(), config, Path(), ShardsConfig(world_size=2), TASK, 1)


def test_what_can_only_be_on_the_model_is_not_beside_it(resident: Resident) -> None:
    assert not resident.adapt("a", spec(method="weights", rank=None), None, None)
    row = Asked(0, (5, 6, 7), 2)
    resident.fix("bare", None, ())
    (found,) = resident.answer(["bare"], [row])
    assert isinstance(found, list)
