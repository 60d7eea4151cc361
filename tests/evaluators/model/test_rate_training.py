from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmarks.oracles import plain_bits
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.program_builder import Builder, coarsely
from kilobit.evaluators.model.rate_training import BIT_WIDTHS, LearnedBits, RatePenalty, Signs
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from kilobit.search.programs.coarsening import coarse
from kilobit.search.programs.numbers import NumbersCode, decode_numbers, encode_numbers
from kilobit.search.space import RateSearch

TASK = load_miniature("numbers", 0)
LESSON = Lesson(TASK, "", TASK.splits.train[:8])


def spec(**changes: Any) -> AdapterSpec:
    values: dict[str, Any] = {
        "method": "lora",
        "rank": 4,
        "target_modules": ("q_proj", "down_proj"),
        "learning_rate": 0.02,
        "steps": 40,
        "batch_size": 4,
        "seed": 3,
    }
    return AdapterSpec.model_validate(values | changes)


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def coded_bytes(frozen: FrozenModel, adapter_spec: AdapterSpec) -> tuple[int, float]:
    with installed(frozen, adapter_spec) as adapter:
        trained = adapter.train(frozen, LESSON, adapter_spec.steps)
        code, integers = coarse(adapter.tensors(), adapter.units, 0.5, 1.0)
    section = encode_numbers(code, integers, NumbersCode(coder="laplace", scales="row"))
    assert section is not None
    assert trained.loss is not None
    return len(section), trained.loss


def test_a_price_on_bits_makes_the_numbers_cheaper(frozen: FrozenModel) -> None:
    plain, _ = coded_bytes(frozen, spec(steps=120))
    cheap, _ = coded_bytes(frozen, spec(steps=120, training="rate", nats_per_kbit=0.1))
    cheapest, _ = coded_bytes(frozen, spec(steps=120, training="rate", nats_per_kbit=5.0))
    assert cheapest < cheap < plain
    assert cheapest < 0.6 * plain


def test_the_penalty_is_the_price_of_a_laplace_code() -> None:
    weights = {"w": torch.tensor([[0.5, -0.5, 0.5, -0.5]])}
    _, penalty = RatePenalty(2.0)(weights, torch.Generator().manual_seed(0))
    # Root mean square 0.5, so a step of 0.25 and a spread of two steps.
    bits = 4 * np.log2(1 + 2 * np.e * 2)
    assert float(penalty) == pytest.approx(2.0 * bits / 1000, rel=1e-5)


def test_gates_choose_fewer_bits_when_bits_cost_more(frozen: FrozenModel) -> None:
    def bits(price: float) -> int:
        with installed(frozen, spec(training="bits", nats_per_kbit=price, steps=60)) as adapter:
            adapter.train(frozen, LESSON, 60)
            assert isinstance(adapter.transform, LearnedBits)
            return plain_bits(adapter.transform, adapter.masters)

    numbers = 4 * (32 + 32) * 2 + 4 * (48 + 32) * 2
    dear, free = bits(10.0), bits(1e-6)
    assert free > 16 * numbers
    assert dear < 8 * numbers


def test_the_bits_of_the_paper_are_counted_with_ranges_and_widths() -> None:
    weights = {"m.lora_A": torch.randn(2, 10), "m.lora_B": torch.randn(6, 2)}
    bits = LearnedBits(1.0, weights)
    assert plain_bits(bits, weights) == 16 * (20 + 12) + 2 * 18 + 2
    with torch.no_grad():
        bits.learned["rank/m.lora_B"][1] = -10
        bits.learned["bits/m.lora_A"][1] = -10
    assert bits.bit_width("m.lora_A") == BIT_WIDTHS[1]
    assert plain_bits(bits, weights) == 4 * 10 + 16 * 6 + 2 * 18 + 2


def test_a_quantised_tensor_has_no_more_values_than_its_bits_allow() -> None:
    weights = {"m.lora_A": torch.randn(3, 400)}
    bits = LearnedBits(1.0, weights)
    with torch.no_grad():
        bits.learned["bits/m.lora_A"][1:] = -10
    values = bits.final(weights)["m.lora_A"]
    assert 4 < len(values.unique()) <= 2**4


def test_gradients_reach_numbers_ranges_and_gates() -> None:
    weights = {"m.lora_A": torch.randn(2, 10, requires_grad=True)}
    bits = LearnedBits(1.0, weights)
    values, penalty = bits(weights, torch.Generator().manual_seed(0))
    (values["m.lora_A"].pow(2).sum() + penalty).backward()
    assert weights["m.lora_A"].grad is not None
    assert weights["m.lora_A"].grad.abs().sum() > 0
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in bits.learned.values())


def test_learned_steps_are_written_for_each_tensor_and_lose_nothing(frozen: FrozenModel) -> None:
    adapter_spec = spec(training="bits", nats_per_kbit=2.0, steps=60)
    with installed(frozen, adapter_spec) as adapter:
        adapter.train(frozen, LESSON, 60)
        tensors = adapter.tensors()
        coded = coarsely(adapter, tensors, adapter_spec)
    more = coded.more
    assert len(more) == len(tensors)
    assert len(set(more)) > 1
    way = NumbersCode(coder="laplace", scales="row", steps="tensor")
    section = encode_numbers(coded.code, coded.integers, way, more)
    assert section is not None
    decoded = decode_numbers(section, [(t.shape[0], t.shape[1]) for t in tensors], way)
    for read, trained in zip(decoded, tensors, strict=True):
        # A step is written in eighths of an octave: half of one, and half a step.
        largest = float(np.abs(trained).max())
        assert float(np.abs(read - trained).max()) <= largest * 0.05 + largest / 3


@pytest.mark.parametrize("training", ["rate", "bits"])
def test_stretches_equal_training_at_once_and_the_base_stays(
    frozen: FrozenModel, training: str
) -> None:
    adapter_spec = spec(training=training, nats_per_kbit=0.1, steps=8)
    with installed(frozen, adapter_spec) as adapter:
        adapter.train(frozen, LESSON, 8)
        at_once = adapter.tensors()
    with installed(frozen, adapter_spec) as adapter:
        adapter.train(frozen, LESSON, 3)
        state = adapter.state()
    with installed(frozen, adapter_spec) as adapter:
        adapter.restore(state)
        adapter.train(frozen, LESSON, 8)
        in_two = adapter.tensors()
    assert all(np.array_equal(a, b) for a, b in zip(at_once, in_two, strict=True))
    assert weights_digest(frozen.model) == frozen.digest


@pytest.mark.parametrize(
    "changes", [{"training": "rate"}, {"nats_per_kbit": 0.1}, {"training": "huffman"}]
)
def test_a_price_belongs_to_a_training_that_has_one(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "soft_prompt", "rank": None, "size": 3, "target_modules": None},
        {"method": "ia3", "rank": None},
        {"method": "steering", "rank": None},
        {},
    ],
)
def test_signs_take_less_than_two_bits_a_number(
    frozen: FrozenModel, model_folders: dict[str, Path], changes: dict[str, Any]
) -> None:
    one = spec(training="signs", learning_rate=0.1, steps=30, **changes)
    config = BaseModelConfig(regime="r", path=model_folders["llama"])
    builder = Builder(frozen, config, TASK, 4, "payload")
    candidate = Candidate(task=TASK.name, model="r", adapter=one)
    with installed(frozen, one) as adapter:
        first = adapter.train(frozen, LESSON, 5).loss
        last = adapter.train(frozen, LESSON, 30).loss
        tensors = adapter.tensors()
        program = builder.build(candidate, {}, adapter, tensors)
        decoded = builder.decode(program)
    assert first is not None
    assert last is not None
    assert last < first
    for tensor, coded in zip(tensors, decoded.tensors, strict=True):
        sizes = np.abs(coded)
        assert sizes.min() == sizes.max() > 0
        assert coded == pytest.approx(tensor, rel=0.05)
    count = sum(tensor.size for tensor in tensors)
    steps = 2 + (len(tensors) if len(tensors) > 1 else 0)
    assert program.payload_bits <= 1.585 * count + 8 * steps + 8
    assert RateSearch().variants(candidate) == []


def test_signs_have_the_gradient_of_their_numbers_and_the_mean_size() -> None:
    start = {"a": torch.tensor([1.0, 1.0, 1.0, 1.0])}
    weights = {"a": torch.tensor([1.3, 0.9, 1.0, 0.6], requires_grad=True)}
    signs = Signs(start)
    values, penalty = signs(weights, torch.Generator())
    assert values["a"].tolist() == pytest.approx([1.2, 0.8, 1.2, 0.8])
    assert signs.size("a", weights["a"]) == pytest.approx(0.2)
    (values["a"] * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert weights["a"].grad is not None
    assert weights["a"].grad.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert float(penalty) == 0
    assert signs.size("a", start["a"]) > 0


def test_signs_have_no_price() -> None:
    with pytest.raises(ValidationError, match="nats_per_kbit belongs to training"):
        spec(training="signs", nats_per_kbit=0.1)
