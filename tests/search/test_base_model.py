"""Settings of a base model; `tests/evaluators/model/test_base_model.py` is about loading one."""

from typing import Any

import pytest
from pydantic import ValidationError

from kilobit.search.base_model import BaseModelConfig

LOCAL = {"regime": "tiny", "path": "tiny"}
HUB = {"regime": "tiny", "hub": "org/model-1.5"}


def test_a_model_is_called_by_its_name_or_else_by_its_regime() -> None:
    assert BaseModelConfig.model_validate(LOCAL).label == "tiny"
    assert BaseModelConfig.model_validate({**LOCAL, "name": "tiny-2"}).label == "tiny-2"


@pytest.mark.parametrize("given", [{"path": "tiny", "hub": "org/model"}, {}])
def test_a_model_has_one_place(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="give either `path`"):
        BaseModelConfig.model_validate({"regime": "tiny", **given})


def test_a_revision_belongs_to_the_hub() -> None:
    assert BaseModelConfig.model_validate({**HUB, "revision": "v1"}).revision == "v1"
    with pytest.raises(ValidationError, match="`revision` belongs to `hub`"):
        BaseModelConfig.model_validate({**LOCAL, "revision": "v1"})


def test_a_seed_belongs_to_random_weights() -> None:
    largest = 2**64 - 1
    random = {**LOCAL, "weights": "random", "seed": largest}
    assert BaseModelConfig.model_validate(random).seed == largest
    with pytest.raises(ValidationError, match="`seed` has no effect with trained weights"):
        BaseModelConfig.model_validate({**LOCAL, "seed": 1})


@pytest.mark.parametrize("label", ["a", "0", "a.b-c_d", "Z" * 64])
def test_a_label_can_be_a_part_of_a_file_name(label: str) -> None:
    assert BaseModelConfig.model_validate({**LOCAL, "regime": label}).label == label


@pytest.mark.parametrize("label", ["", ".hidden", "-o", "a/b", "a b", "a\n", "ä", "Z" * 65])
@pytest.mark.parametrize("field", ["regime", "name"])
def test_a_label_that_is_none_of_a_file_is_refused(field: str, label: str) -> None:
    with pytest.raises(ValidationError, match="a label begins with a letter or digit"):
        BaseModelConfig.model_validate({**LOCAL, field: label})


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cuda:"},
        {"device": "gpu"},
        {"dtype": "int8"},
        {"hub": "https://host/org/model"},
        {"hub": "org/model/more"},
        {"trust_remote_code": True},
    ],
)
def test_what_no_model_has_is_refused(changes: dict[str, Any]) -> None:
    (field,) = changes
    with pytest.raises(ValidationError, match=rf"(?s)^1 validation error.*\b{field}\b"):
        BaseModelConfig.model_validate(HUB | changes)


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:11"])
def test_devices_are_named_as_torch_names_them(device: str) -> None:
    assert BaseModelConfig.model_validate({**HUB, "device": device}).device == device
