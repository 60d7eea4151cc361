from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.generate import generate
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.program_builder import coarsely
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.numbers import NumbersCode, step_of
from tests.conftest import ARCHITECTURES, random_numbers
from tests.support.recipes import NUMBER_METHODS, adapter_spec

TASK = load_miniature("numbers", 0)
TRAIN = TASK.splits.train
LESSON = Lesson(TASK, "", TRAIN)
TARGETS = {"llama": ("down_proj", "lm_head"), "gpt2": ("c_attn",), "qwen2": ("q_proj", "down_proj")}


def spec(**changes: Any) -> AdapterSpec:
    values = {
        "method": "lora",
        "rank": 2,
        "target_modules": ("q_proj",),
        "learning_rate": 0.02,
        "steps": 8,
        "batch_size": 4,
        "seed": 7,
    }
    return AdapterSpec.model_validate(values | changes)


def numbers_of(adapter: Adapter) -> np.ndarray:
    return np.concatenate([tensor.reshape(-1) for tensor in adapter.tensors()])


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_lowers_the_loss_and_leaves_the_base_alone(
    model_folders: dict[str, Path], architecture: str
) -> None:
    frozen = load(BaseModelConfig(regime="r", path=model_folders[architecture]), Path())
    names = [name for name, _ in frozen.model.named_parameters()]
    adapter = spec(target_modules=TARGETS[architecture], steps=40, learning_rate=0.05)
    with installed(frozen, adapter) as lora:
        first = lora.train(frozen, Lesson(TASK, "", TRAIN[:2]), 10)
        last = lora.train(frozen, Lesson(TASK, "", TRAIN[:2]), 40)
    assert last.steps == 40
    assert last.loss is not None
    assert first.loss is not None
    assert last.loss < first.loss - 0.2
    assert weights_digest(frozen.model) == frozen.digest
    assert [name for name, _ in frozen.model.named_parameters()] == names
    assert not any(p.requires_grad for p in frozen.model.parameters())


def test_a_new_adapter_changes_nothing_and_a_trained_one_does(frozen: FrozenModel) -> None:
    prompts = [TASK.ask(e.input) for e in TASK.splits.search[:6]]
    options: dict[str, Any] = {"max_new_tokens": 6, "stop": (), "batch_size": 6}
    bare = generate(frozen, prompts, **options).texts
    with installed(frozen, spec(steps=60, learning_rate=0.1)) as lora:
        assert generate(frozen, prompts, **options).texts == bare
        lora.train(frozen, LESSON, 60)
        assert generate(frozen, prompts, **options).texts != bare
    assert generate(frozen, prompts, **options).texts == bare


def test_training_in_stretches_equals_training_at_once(frozen: FrozenModel) -> None:
    with installed(frozen, spec()) as lora:
        lora.train(frozen, Lesson(TASK, "Number:\n", TRAIN), 8)
        at_once = numbers_of(lora)
    with installed(frozen, spec()) as lora:
        lora.train(frozen, Lesson(TASK, "Number:\n", TRAIN), 3)
        state = lora.state()
    torch.manual_seed(99)
    with installed(frozen, spec()) as lora:
        lora.restore(state)
        assert lora.steps == 3
        lora.train(frozen, Lesson(TASK, "Number:\n", TRAIN), 8)
        assert np.array_equal(numbers_of(lora), at_once)


def test_the_seed_decides_the_adapter(frozen: FrozenModel) -> None:
    values = []
    for seed in (7, 7, 8):
        with installed(frozen, spec(seed=seed)) as lora:
            lora.train(frozen, LESSON, 2)
            values.append(numbers_of(lora))
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_layers_restrict_the_adapter(frozen: FrozenModel) -> None:
    with installed(frozen, spec()) as lora:
        both = len(numbers_of(lora))
    with installed(frozen, spec(layers=(1,))) as lora:
        assert len(numbers_of(lora)) * 2 == both


def test_assigned_numbers_are_the_adapter(frozen: FrozenModel) -> None:
    with installed(frozen, spec()) as lora:
        numbers = random_numbers(lora)
        lora.assign(numbers)
        assert np.array_equal(numbers_of(lora), np.concatenate([n.reshape(-1) for n in numbers]))
        for wrong in (numbers[1:], [n[:, :-1] for n in numbers]):
            with pytest.raises(ValueError, match="other shapes than the adapter"):
                lora.assign(wrong)


@pytest.mark.parametrize("method", NUMBER_METHODS)
def test_every_method_trains_restores_and_leaves_the_base_alone(
    frozen: FrozenModel, method: str
) -> None:
    names = [name for name, _ in frozen.model.named_parameters()]
    prompts = [TASK.ask(e.input) for e in TASK.splits.search[:4]]
    options: dict[str, Any] = {"max_new_tokens": 6, "stop": (), "batch_size": 1}
    bare = generate(frozen, prompts, **options).texts
    with installed(frozen, adapter_spec(method)) as adapter:
        before = numbers_of(adapter)
        trained = adapter.train(frozen, LESSON, 3)
        assert trained.loss is not None
        after, state, tensors = numbers_of(adapter), adapter.state(), adapter.tensors()
        assert not np.array_equal(before, after)
        part = adapter.part(NumbersCode(coder="packed"))
        assert list(part.shapes) == [t.shape for t in tensors]
        assert all(rows <= columns for rows, columns in part.shapes)
        assert sorted(i for unit in adapter.units for i in unit) == list(range(len(tensors)))
        adapter.train(frozen, LESSON, 5)
        at_once = numbers_of(adapter)
        adapter.assign(random_numbers(adapter))
        changed = generate(frozen, prompts, model=adapter.model, **options).texts
        assert changed != bare
    torch.manual_seed(99)
    with installed(frozen, adapter_spec(method)) as adapter:
        adapter.restore(state)
        assert np.array_equal(numbers_of(adapter), after)
        adapter.train(frozen, LESSON, 5)
        assert np.array_equal(numbers_of(adapter), at_once)
    assert generate(frozen, prompts, **options).texts == bare
    assert weights_digest(frozen.model) == frozen.digest
    assert [name for name, _ in frozen.model.named_parameters()] == names
    assert not any(p.requires_grad for p in frozen.model.parameters())
    assert not hasattr(frozen.model, "peft_config")


@pytest.mark.parametrize("method", NUMBER_METHODS)
def test_what_a_seed_decides_is_not_in_the_program(frozen: FrozenModel, method: str) -> None:
    # Two seeds, the same numbers: a program holds no seed, so the outputs have to be the same.
    logits, ids = [], torch.arange(20, 60)[None]
    for seed in (1, 2):
        with installed(frozen, adapter_spec(method, seed=seed)) as adapter, torch.no_grad():
            adapter.assign(random_numbers(adapter))
            logits.append(adapter.model(input_ids=ids).logits)
    assert torch.equal(*logits)
    with torch.no_grad():
        bare = frozen.model(input_ids=ids).logits
    assert not torch.allclose(logits[0][:, -40:], bare, atol=1e-3)


def test_weights_that_are_tied_stay_tied(model_folders: dict[str, Path]) -> None:
    frozen = load(BaseModelConfig(regime="r", path=model_folders["qwen2"]), Path())
    weights = adapter_spec("weights", target_modules=("embed_tokens",))
    with installed(frozen, weights) as adapter:
        assert frozen.model.lm_head.weight is frozen.model.model.embed_tokens.weight
        adapter.train(frozen, LESSON, 2)
        assert np.abs(numbers_of(adapter)).max() > 0
    assert frozen.model.lm_head.weight is frozen.model.model.embed_tokens.weight
    assert weights_digest(frozen.model) == frozen.digest


def test_an_adapter_without_a_place_is_refused_and_leaves_nothing(frozen: FrozenModel) -> None:
    for method in ("lora", "weights"):
        with (
            pytest.raises(ValueError, match="nosuch"),
            installed(frozen, adapter_spec(method, target_modules=("nosuch",))),
        ):
            pass
    assert weights_digest(frozen.model) == frozen.digest


def test_a_loss_that_is_not_finite_is_an_error_and_the_model_survives(frozen: FrozenModel) -> None:
    with (
        pytest.raises(FloatingPointError, match="loss became nan at step"),
        installed(frozen, spec(learning_rate=1e30, steps=30)) as lora,
    ):
        lora.train(frozen, LESSON, 30)
    assert weights_digest(frozen.model) == frozen.digest


def test_a_foreign_state_is_refused(frozen: FrozenModel) -> None:
    with installed(frozen, spec(target_modules=("v_proj",))) as lora:
        state = lora.state()
    with (
        pytest.raises(ValueError, match="belongs to another adapter"),
        installed(frozen, spec()) as lora,
    ):
        lora.restore(state)


@pytest.mark.parametrize(
    ("target", "rank"), [("q_proj", 32), ("k_proj", 16), ("down_proj", 32), ("k_proj", 20)]
)
def test_coding_keeps_the_product_also_where_the_rank_is_as_large_as_a_side(
    frozen: FrozenModel, target: str, rank: int
) -> None:
    one = spec(rank=rank, target_modules=(target,), step=1e-3)
    with installed(frozen, one) as adapter:
        adapter.assign(random_numbers(adapter))
        (name, *_) = [n for n in adapter.weights if "lora_A" in n]
        both = [adapter.weights[name], adapter.weights[name.replace("lora_A", "lora_B")]]
        expected = (both[1] @ both[0]).detach().clone()
        coded = coarsely(adapter, adapter.tensors(), one)
        step = step_of(coded.code)
        adapter.assign([(step * each).astype(np.float32) for each in coded.integers])
        error = (both[1] @ both[0] - expected).norm() / expected.norm()
    assert float(error) < 0.01


@pytest.mark.parametrize("method", ["tinylora", "lora_xs"])
def test_weights_are_factored_once_for_all_candidates_and_rungs(
    model_folders: dict[str, Path],
    frozen: FrozenModel,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed, calls = torch.linalg.svd, []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args[0].shape)
        return computed(*args, **options)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    changes = {"rank": None, "size": 4} if method == "tinylora" else {}
    candidates = [spec(method=method, seed=seed, **changes) for seed in range(3)]
    for _ in range(3):
        for one in candidates:
            with installed(frozen, one) as adapter:
                adapter.train(frozen, LESSON, 1)
                kept = numbers_of(adapter)
    assert len(calls) == sum("q_proj.weight" in name for name, _ in frozen.model.named_parameters())
    # Factors of a model that keeps none are the same.
    fresh = load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())
    with installed(fresh, candidates[-1]) as adapter:
        adapter.train(fresh, LESSON, 1)
        assert (numbers_of(adapter) == kept).all()
