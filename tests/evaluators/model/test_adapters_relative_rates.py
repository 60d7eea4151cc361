"""Default learning rates: each method's own range, relative to the size of what it changes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.training_batches import Lesson, training_batch
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import METHODS, AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import REPOSITORY
from tests.support.recipes import NUMBER_METHODS

TASK = load_miniature("numbers", 0)
LESSON = Lesson(TASK, "", TASK.splits.train)
# Share of the loss that 24 steps take off at least. A soft prompt needs thousands of steps, and
# the 128 numbers of this LoRA-XS many hundreds.
LEAST = {"soft_prompt": 0.005, "lora_xs": 0.015}
USUAL = {
    "rank": 4,
    "size": 64,
    "target_modules": ("q_proj", "v_proj"),
    "tokens": (0,),
    "draws": tuple(range(64)),
}
OWN = {
    "soft_prompt": {"size": 2},
    "ln_tuning": {"target_modules": ("input_layernorm",)},
    "weights": {"target_modules": ("v_proj",)},
}
PROJECTED = ("lora", "lora_fa", "lora_xs", "vera", "tinylora", "unilora", "fourierft")


def relative(method: str, rate: float, **changes: Any) -> AdapterSpec:
    shape = {name: USUAL[name] for name in METHODS[method].fields if name in USUAL}
    values: dict[str, Any] = {"steps": 24, "batch_size": 8, "seed": 7}
    values |= {"ratio": METHODS[method].ratio}
    values |= shape | OWN.get(method, {}) | changes
    return AdapterSpec(method=method, learning_rate=rate, relative=True, **values)


@pytest.fixture(scope="module")
def pretrained() -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=REPOSITORY / "examples/tiny/pretrained"), Path())


@torch.no_grad()
def loss_of(adapter: Adapter, frozen: FrozenModel) -> float:
    spec = adapter.spec.model_copy(update={"batch_size": 32})
    return float(adapter.model(**training_batch(frozen, LESSON, spec, -1)).loss)


@pytest.mark.parametrize("method", NUMBER_METHODS)
def test_each_method_learns_at_the_middle_of_its_own_range(
    pretrained: FrozenModel, method: str
) -> None:
    rate = math.sqrt(math.prod(METHODS[method].rates))
    with installed(pretrained, relative(method, rate)) as adapter:
        before = loss_of(adapter, pretrained)
        adapter.train(pretrained, LESSON, 24)
        after = loss_of(adapter, pretrained)
    assert after < (1 - LEAST.get(method, 0.04)) * before


def one_step(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Take a step with gradients of random signs; return how far each number moved."""
    generator = torch.Generator().manual_seed(0)
    before = {name: weight.detach().clone() for name, weight in adapter.weights.items()}
    adapter.begin_step(0)
    for weight in adapter.weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator).sign()
    adapter.end_step(0)
    return {name: weight.detach() - before[name] for name, weight in adapter.weights.items()}


@pytest.mark.parametrize(
    ("method", "kept"), [("weights", "v_proj"), ("ln_tuning", "input_layernorm")]
)
@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_a_step_is_a_share_of_the_numbers_own_size(
    model_folders: dict[str, Path], method: str, kept: str, factor: float
) -> None:
    frozen = load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())
    targets = [w for name, w in frozen.model.named_parameters() if kept in name]
    for weight in targets:
        weight.data *= factor
    size = math.sqrt(float(torch.cat([w.detach().flatten() for w in targets]).pow(2).mean()))
    with installed(frozen, relative(method, 0.1, target_modules=(kept,))) as adapter:
        moved = one_step(adapter)
    # The first of five steps of the warm-up takes a fifth of the rate.
    assert {round(float(w.abs().max()) / size, 4) for w in moved.values()} == {0.02}


@pytest.mark.parametrize("ratio", [1.0, 10.0, 0.5])
@pytest.mark.parametrize("training", ["plain", "rate"])
def test_b_moves_as_much_more_than_a_as_the_ratio_says(
    pretrained: FrozenModel, ratio: float, training: str
) -> None:
    price = None if training == "plain" else 1e-6
    more = {"ratio": ratio, "training": training, "nats_per_kbit": price, "relative": False}
    spec = AdapterSpec.model_validate(relative("lora", 0.01).model_dump() | more)
    with installed(pretrained, spec) as adapter:
        before = {name: weight.detach().clone() for name, weight in adapter.masters.items()}
        one_step(adapter)
        moved = {n: float((w - before[n]).abs().median()) for n, w in adapter.masters.items()}
    # The first of five steps of the warm-up takes a fifth of the rate.
    expected = {"lora_A": 0.002 / math.sqrt(ratio), "lora_B": 0.002 * math.sqrt(ratio)}
    for name, share in moved.items():
        factor = "lora_A" if "lora_A" in name else "lora_B"
        assert share == pytest.approx(expected[factor], rel=1e-3)


def test_a_checkpoint_restores_the_moments_of_both_factors(pretrained: FrozenModel) -> None:
    spec = relative("lora", 0.1)
    with installed(pretrained, spec) as adapter:
        adapter.train(pretrained, LESSON, 2)
        state = adapter.state()
        adapter.train(pretrained, LESSON, 4)
        at_once = adapter.tensors()
    with installed(pretrained, spec) as adapter:
        adapter.restore(state)
        adapter.train(pretrained, LESSON, 4)
        in_two = adapter.tensors()
    assert all(np.array_equal(a, b) for a, b in zip(at_once, in_two, strict=True))


def share_of_a_step(width: int, method: str) -> float:
    """Return the spectral norm of a step's change of a weight as a share of the weight's own."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=width, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).requires_grad_(False)
    weight = model.model.layers[0].self_attn.q_proj.weight
    weight.data.normal_(std=1 / math.sqrt(width))
    frozen = FrozenModel(model, None, "", 0.0, None, special_tokens=False, pad_with_end=False)
    with installed(frozen, relative(method, 1.0, target_modules=("q_proj",))) as adapter:
        layer = adapter.model.base_model.model.model.layers[0].self_attn.q_proj
        # FourierFT begins with a random change.
        change = -layer.get_delta_weight("default").detach()
        one_step(adapter)
        change += layer.get_delta_weight("default").detach()
    return float(torch.linalg.matrix_norm(change, 2) / torch.linalg.matrix_norm(weight, 2))


@pytest.mark.parametrize("method", PROJECTED)
def test_a_step_changes_weights_of_all_widths_by_about_the_same_share(method: str) -> None:
    narrow, wide = (share_of_a_step(width, method) for width in (128, 1024))
    assert 0.5 < wide / narrow < 2
