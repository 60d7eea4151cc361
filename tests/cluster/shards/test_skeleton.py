from pathlib import Path

import pytest
import torch

from kilobit.cluster.shards.skeleton import skeleton
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.numbers import NumbersCode

CODE = NumbersCode(coder="packed")


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def spec(method: str) -> AdapterSpec:
    return AdapterSpec.model_validate(
        {
            "method": method,
            "rank": 2,
            "target_modules": ("q_proj",),
            "layers": (1,),
            "learning_rate": 0.01,
            "steps": 1,
            "batch_size": 1,
            "seed": 0,
        }
    )


def test_a_skeleton_has_the_shapes_of_the_model_and_one_number_of_memory_a_weight(
    frozen: FrozenModel,
) -> None:
    shapes = {name: weight.shape for name, weight in frozen.model.named_parameters()}
    with skeleton(frozen, spec("lora"), torch.clone) as found:
        for name, weight in found.model.named_parameters():
            assert weight.shape == shapes[name]
            assert weight.untyped_storage().nbytes() == weight.element_size(), name
            assert not weight.any()


def test_methods_that_begin_from_weights_get_those_of_their_modules_only_meanwhile(
    frozen: FrozenModel,
) -> None:
    name = "model.layers.1.self_attn.q_proj"
    with skeleton(frozen, spec("lora_xs"), torch.clone) as found:
        filled = found.model.get_submodule(name).weight
        assert torch.equal(filled, frozen.model.get_submodule(name).weight)
        assert not found.model.get_submodule(name.replace("1", "0")).weight.any()
    assert not found.model.get_submodule(name).weight.any()


def test_an_adapter_on_a_skeleton_has_the_numbers_of_one_on_the_model(frozen: FrozenModel) -> None:
    with (
        skeleton(frozen, spec("lora"), torch.clone) as found,
        installed(found, spec("lora")) as adapter,
    ):
        on_skeleton = adapter.tensors()
    with installed(frozen, spec("lora")) as adapter:
        expected = adapter.tensors()
    assert [t.shape for t in on_skeleton] == [t.shape for t in expected]
    assert all((a == b).all() for a, b in zip(on_skeleton, expected, strict=True))


def test_a_weight_whose_factors_are_known_is_not_read_again(frozen: FrozenModel) -> None:
    name, read = "model.layers.1.self_attn.q_proj", []

    def whole(weight: torch.Tensor) -> torch.Tensor:
        read.append(weight)
        return weight.clone()

    numbers = []
    for rank in (2, 2, 3, 2):
        one = spec("lora_xs").model_copy(update={"rank": rank})
        with skeleton(frozen, one, whole) as found, installed(found, one) as adapter:
            module = found.model.get_submodule(name)
            numbers.append([module.tinylora_A["default"], module.tinylora_B["default"]])
            assert adapter.part(CODE).factor_sum is not None
    # A larger rank needs more factors than were kept.
    assert len(read) == 2
    for other in (numbers[1], numbers[3]):
        assert all(torch.equal(a, b) for a, b in zip(numbers[0], other, strict=True))
