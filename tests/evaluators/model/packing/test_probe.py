"""A model on which packs would not give its own numbers is found when it is loaded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.packing import forward
from kilobit.evaluators.model.packing.deltas import LowRank
from kilobit.evaluators.model.packing.forward import Reading
from kilobit.evaluators.model.packing.probe import Probe, probe
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import _tokenizer
from tests.support.models import build_model

Make = Callable[..., FrozenModel]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(name: str, dtype: str = "float32") -> FrozenModel:
        folder = build_model(name, _tokenizer(bos=False, pad=False), tmp_path / name)
        return load(BaseModelConfig(regime="r", path=folder, dtype=dtype), Path())

    return make


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "mpt", "opt", "mixtral"])
def test_packs_hold_for_models_with_keys_and_values(make: Make, name: str, dtype: str) -> None:
    found = probe(make(name, dtype))
    assert found.holds, found.why_not
    kinds = {module.rpartition(".")[2] for module in found.modules}
    # Experts and the MLP of OPT see the tokens of all rows in one line.
    expected = {
        "llama": {"q_proj", "down_proj", "input_layernorm"},
        "mistral": {"q_proj", "down_proj"},
        "gpt_oss": {"q_proj", "o_proj"},
        "mpt": {"Wqkv", "down_proj"},
        "opt": {"q_proj", "out_proj"},
        "mixtral": {"q_proj", "o_proj"},
    }
    assert kinds >= expected[name]
    assert not kinds & {"fc1", "fc2", "gate", "router", "w1", "experts"}


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_a_model_that_answers_by_no_numbers_is_refused(make: Make, name: str) -> None:
    frozen = make(name)
    probe(frozen)
    broken = make(name)
    with torch.no_grad():
        next(iter(broken.model.parameters()))[:] = float("nan")
    with pytest.raises(ValueError, match="its logits are NaN: its weights are damaged or overflow"):
        probe(broken)


@pytest.mark.parametrize("name", ["mamba", "lfm2", "qwen3_next", "falcon_h1"])
def test_models_without_plain_keys_and_values_run_alone(make: Make, name: str) -> None:
    found = probe(make(name))
    assert not found.holds
    assert "a packed pass raises" in (found.why_not or "")
    assert not found.takes({})


@pytest.mark.parametrize("name", ["mistral", "gemma2", "mpt", "llama4"])
def test_padding_in_the_middle_of_a_row_is_found(
    make: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(self: Reading, answers: Sequence[Sequence[int]]) -> list[list[int]]:
        shared = forward._shared(self._rows)
        kept = [shared[slot] for slot, _ in self._rows]
        self._read_shared({slot: n for slot, n in shared.items() if n}, kept)
        whole = zip(self._rows, answers, kept, strict=True)
        return [[*ids[n:], *answer] for (_, ids), answer, n in whole]

    model = make(name)
    monkeypatch.setattr(Reading, "begin", begin)
    assert "the logits of packed rows differ" in (probe(model).why_not or "")


def test_wrong_gradients_are_found(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, copied = make("llama"), forward._copied

    def cut(cached: torch.Tensor, *args: Any) -> torch.Tensor:
        return copied(cached.detach(), *args)

    monkeypatch.setattr(forward, "_copied", cut)
    assert "gradients of packed rows differ" in (probe(model).why_not or "")


def test_an_adapter_on_a_module_that_mixes_rows_runs_alone() -> None:
    change = LowRank(lambda: (torch.zeros(1, 1), torch.zeros(1, 1)))
    found = Probe(None, frozenset({"a.q_proj"}))
    assert found.takes({"a.q_proj": change, "": change})
    assert not found.takes({"a.q_proj": change, "a.gate": change})
    assert not Probe("no", frozenset({"a.q_proj"})).takes({})


def test_a_model_is_probed_once(make: Make) -> None:
    model = make("llama")
    assert probe(model) is probe(model)
