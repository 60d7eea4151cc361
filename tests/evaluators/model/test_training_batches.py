from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig

TASK = load_miniature("numbers", 0)


TRAIN = TASK.splits.train


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


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def test_an_example_beyond_the_context_is_named(frozen: FrozenModel) -> None:
    with (
        pytest.raises(ValueError, match=r"training example of \d+ tokens does not fit"),
        installed(frozen, spec()) as lora,
    ):
        lora.train(frozen, Lesson(TASK, "dog " * 300, TRAIN), 1)
