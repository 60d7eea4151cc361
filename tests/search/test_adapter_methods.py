from typing import Any

import pytest
from pydantic import ValidationError

from kilobit.search.adapter_methods import METHODS, AdapterSpec, peft_config
from tests.support.adapters import ADAPTER, spec

SHAPES: dict[str, Any] = {
    "rank": 1,
    "size": 2,
    "target_modules": ("q",),
    "layers": (0,),
    "tokens": (1,),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_its_own_fields_and_no_others(name: str) -> None:
    method = METHODS[name]
    own = {field: SHAPES[field] for field in method.needs}
    AdapterSpec.model_validate({"method": name, **own, **ADAPTER})
    for field in SHAPES.keys() - method.needs - method.may:
        with pytest.raises(ValidationError, match=f"{name} has no {field}"):
            AdapterSpec.model_validate({"method": name, **own, field: SHAPES[field], **ADAPTER})
    for field in own:
        less = {key: value for key, value in own.items() if key != field}
        with pytest.raises(ValidationError, match=f"{name} needs {field}"):
            AdapterSpec.model_validate({"method": name, **less, **ADAPTER})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": None}, "data needs size"),
        ({"tokens": (3,)}, "data has no tokens"),
        ({"step": 0.5}, "data has no step and no keep"),
        ({"keep": 0.5}, "data has no step and no keep"),
        ({"size": 11}, "10 steps of 1 do not reach 11 examples"),
    ],
)
def test_what_has_no_meaning_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**changes)


def test_the_adapter_is_a_lora_with_pefts_own_scale() -> None:
    found = peft_config(spec(layers=(1,)))
    expected = {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [1]}
    assert found == ("LoraConfig", expected)
