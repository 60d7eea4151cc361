from pathlib import Path

import pytest

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.search.base_model import BaseModelConfig
from tests.support.packs import TASK, spec


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def test_an_example_beyond_the_context_is_named(frozen: FrozenModel) -> None:
    with (
        pytest.raises(ValueError, match=r"training example of \d+ tokens does not fit"),
        installed(frozen, spec()) as lora,
    ):
        lora.train(frozen, Lesson(TASK, "dog " * 300, TASK.splits.train), 1)
