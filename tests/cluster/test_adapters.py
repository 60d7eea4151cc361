from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cluster.lora import installed

from cluster.frozen import Frozen, load, weights_digest
from cluster.generation import generate
from evaluators.miniature.tasks import load_miniature
from search.base_model import BaseModelConfig
from search.candidate import LoraSpec
from tests.conftest import ARCHITECTURES

TASK = load_miniature("numbers", 0)
TRAIN = TASK.splits.train
TARGETS = {"llama": ("down_proj", "lm_head"), "gpt2": ("c_attn",), "qwen2": ("q_proj", "down_proj")}


def spec(**changes: Any) -> LoraSpec:
    values = {
        "rank": 2,
        "target_modules": ("q_proj",),
        "learning_rate": 0.02,
        "steps": 8,
        "batch_size": 4,
        "seed": 7,
    }
    return LoraSpec.model_validate(values | changes)


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> Frozen:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_lowers_the_loss_and_leaves_the_base_alone(
    model_folders: dict[str, Path], architecture: str
) -> None:
    frozen = load(BaseModelConfig(regime="r", path=model_folders[architecture]), Path())
    names = [name for name, _ in frozen.model.named_parameters()]
    adapter = spec(target_modules=TARGETS[architecture], steps=40, learning_rate=0.05)
    with installed(frozen, adapter) as lora:
        first = lora.train(frozen, TASK, "", TRAIN[:2], 10)
        last = lora.train(frozen, TASK, "", TRAIN[:2], 40)
    assert last.steps == 40
    assert last.loss is not None
    assert first.loss is not None
    assert last.loss < first.loss - 0.2
    assert weights_digest(frozen.model) == frozen.digest
    assert [name for name, _ in frozen.model.named_parameters()] == names
    assert not any(p.requires_grad for p in frozen.model.parameters())


def test_a_new_adapter_changes_nothing_and_a_trained_one_does(frozen: Frozen) -> None:
    prompts = [TASK.ask(e.input) for e in TASK.splits.search[:6]]
    options: dict[str, Any] = {"max_new_tokens": 6, "stop": (), "batch_size": 6}
    bare = generate(frozen, prompts, **options).texts
    with installed(frozen, spec(steps=60, learning_rate=0.1)) as lora:
        assert generate(frozen, prompts, **options).texts == bare
        lora.train(frozen, TASK, "", TRAIN, 60)
        assert generate(frozen, prompts, **options).texts != bare
    assert generate(frozen, prompts, **options).texts == bare


def test_training_in_stretches_equals_training_at_once(frozen: Frozen) -> None:
    with installed(frozen, spec()) as lora:
        lora.train(frozen, TASK, "Number:\n", TRAIN, 8)
        at_once = lora.values()
    with installed(frozen, spec()) as lora:
        lora.train(frozen, TASK, "Number:\n", TRAIN, 3)
        state = lora.state()
    torch.manual_seed(99)
    with installed(frozen, spec()) as lora:
        lora.restore(state)
        assert lora.steps == 3
        lora.train(frozen, TASK, "Number:\n", TRAIN, 8)
        assert np.array_equal(lora.values(), at_once)


def test_the_seed_decides_the_adapter(frozen: Frozen) -> None:
    values = []
    for seed in (7, 7, 8):
        with installed(frozen, spec(seed=seed)) as lora:
            lora.train(frozen, TASK, "", TRAIN, 2)
            values.append(lora.values())
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_layers_restrict_the_adapter(frozen: Frozen) -> None:
    with installed(frozen, spec()) as lora:
        both = len(lora.values())
    with installed(frozen, spec(layers=(1,))) as lora:
        assert len(lora.values()) * 2 == both


def test_assigned_numbers_are_the_adapter(frozen: Frozen) -> None:
    with installed(frozen, spec()) as lora:
        numbers = (np.arange(len(lora.values())) / 64).astype(np.float16)
        lora.assign(numbers)
        assert np.array_equal(lora.values(), numbers)
        with pytest.raises(ValueError, match="the payload holds 3"):
            lora.assign(numbers[:3])


def test_a_loss_that_is_not_finite_is_an_error_and_the_model_survives(frozen: Frozen) -> None:
    with (
        pytest.raises(FloatingPointError, match="loss became nan at step"),
        installed(frozen, spec(learning_rate=1e30, steps=30)) as lora,
    ):
        lora.train(frozen, TASK, "", TRAIN, 30)
    assert weights_digest(frozen.model) == frozen.digest


def test_a_foreign_state_is_refused(frozen: Frozen) -> None:
    with installed(frozen, spec(target_modules=("v_proj",))) as lora:
        state = lora.state()
    with (
        pytest.raises(ValueError, match="belongs to another adapter"),
        installed(frozen, spec()) as lora,
    ):
        lora.restore(state)


def test_an_example_beyond_the_context_is_named(frozen: Frozen) -> None:
    with (
        pytest.raises(ValueError, match=r"training example of \d+ tokens does not fit"),
        installed(frozen, spec()) as lora,
    ):
        lora.train(frozen, TASK, "dog " * 300, TRAIN, 1)
