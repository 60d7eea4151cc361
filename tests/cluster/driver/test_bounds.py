"""Bounds of lengths hold: no adapter has more numbers than are counted without building it."""

from pathlib import Path

import pytest

from kilobit.cluster.driver.bounds import bound_bits, count_numbers, shapes_of
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt

TINY = Path(__file__).parents[3] / "examples" / "tiny"
PLACES = ("down_proj", "q_proj")
SHAPES = {
    "lora": {"rank": 2, "target_modules": PLACES},
    "lora_fa": {"rank": 2, "target_modules": PLACES, "layers": (1, 3)},
    "lora_xs": {"rank": 3, "target_modules": PLACES},
    "vera": {"rank": 8, "target_modules": PLACES},
    "tinylora": {"size": 13, "target_modules": PLACES},
    "unilora": {"size": 64, "target_modules": PLACES},
    "fourierft": {"size": 16, "target_modules": PLACES, "layers": (2,)},
    "ia3": {"target_modules": PLACES},
    "ln_tuning": {"target_modules": ("norm",)},
    "trainable_tokens": {"tokens": (10, 11)},
    "soft_prompt": {"size": 2},
    "weights": {"target_modules": ("layers.3.mlp.down_proj",)},
}


@pytest.fixture(scope="module")
def frozen() -> FrozenModel:
    return load(BaseModelConfig(regime="pretrained", path=Path("pretrained")), TINY)


def spec_of(method: str) -> AdapterSpec:
    about = {"method": method, "learning_rate": 0.01, "steps": 5, "batch_size": 2, "seed": 0}
    return AdapterSpec.model_validate(about | SHAPES[method])


@pytest.mark.parametrize("method", list(SHAPES))
def test_as_many_numbers_are_counted_as_are_trained(method: str, frozen: FrozenModel) -> None:
    spec = spec_of(method)
    counted = count_numbers(spec, shapes_of(frozen.model))
    with installed(frozen, spec) as adapter:
        assert sum(tensor.size for tensor in adapter.tensors()) == counted


def test_a_prompt_is_bounded_by_its_best_codec_and_numbers_by_16_bits_each() -> None:
    task = load_miniature("numbers", 0)
    bare = Candidate(task=task.name, model="m")
    assert bound_bits(bare, task, None) == 0
    prompt = bare.model_copy(update={"prompt": Prompt(instruction="Number:")})
    assert bound_bits(prompt, task, None) == 8 * len("Number:\n")
    both = prompt.model_copy(update={"adapter": spec_of("tinylora")})
    assert bound_bits(both, task, {}) == 8 * len("Number:\n") + 16 * 13
    assert bound_bits(both, task, None) is None
