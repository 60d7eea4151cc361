"""Base models on which packs work."""

from pathlib import Path

import pytest

from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import ARCHITECTURES


@pytest.fixture(params=ARCHITECTURES)
def frozen(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders[request.param]), Path())


@pytest.fixture
def llama(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())
