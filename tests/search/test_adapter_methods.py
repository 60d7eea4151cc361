from typing import Any

import pytest
from pydantic import ValidationError

from kilobit.search.adapter_methods import METHODS, AdapterSpec, peft_config
from tests.support.adapters import ADAPTER, spec


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


@pytest.mark.parametrize(
    ("method", "shape", "expected"),
    [
        ("lora", {"rank": 3}, ("LoraConfig", {"r": 3, "lora_alpha": 6})),
        ("lora_fa", {"rank": 1}, ("LoraConfig", {"r": 1, "lora_alpha": 2})),
        # A matrix of rank x rank numbers.
        ("lora_xs", {"rank": 5}, ("TinyLoraConfig", {"r": 5, "u": 25})),
        ("vera", {"rank": 4}, ("VeraConfig", {"r": 4})),
        ("tinylora", {"size": 13}, ("TinyLoraConfig", {"u": 13, "weight_tying": 1.0})),
        ("unilora", {"size": 20}, ("UniLoraConfig", {"theta_d_length": 20})),
        ("fourierft", {"size": 7}, ("FourierFTConfig", {"n_frequency": 7})),
        ("ia3", {}, ("IA3Config", {"feedforward_modules": []})),
        ("ln_tuning", {}, ("LNTuningConfig", {})),
        (
            "trainable_tokens",
            {"tokens": (5, 2)},
            ("TrainableTokensConfig", {"token_indices": [5, 2]}),
        ),
        (
            "soft_prompt",
            {"size": 3},
            ("PromptTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
        ),
    ],
)
def test_a_method_is_a_configuration_of_peft(
    method: str, shape: dict[str, Any], expected: tuple[str, dict[str, Any]]
) -> None:
    name, arguments = expected
    if "target_modules" in METHODS[method].fields:
        shape = {**shape, "target_modules": ("q", "v")}
        arguments = {**arguments, "target_modules": ["q", "v"]}
    given = AdapterSpec.model_validate({"method": method, **shape, **ADAPTER})
    assert peft_config(given) == (name, arguments)


def test_weights_themselves_are_no_configuration_of_peft() -> None:
    given = AdapterSpec.model_validate({"method": "weights", "target_modules": ("q",), **ADAPTER})
    assert peft_config(given) is None


def test_making_a_configuration_leaves_the_fixed_arguments_alone() -> None:
    one, two = (
        peft_config(AdapterSpec.model_validate(
            {"method": "tinylora", "size": 1, "target_modules": (name,), **ADAPTER}
        )) for name in ("q", "v")
    )  # fmt: skip
    assert one is not None
    assert two is not None
    assert (one[1]["target_modules"], two[1]["target_modules"]) == (["q"], ["v"])


@pytest.mark.parametrize("training", ["rate", "bits"])
def test_a_price_belongs_to_training_that_counts_bits(training: str) -> None:
    lora = {"method": "lora", "rank": 1, "target_modules": ("q",), **ADAPTER}
    priced = AdapterSpec.model_validate({**lora, "training": training, "nats_per_kbit": 0.1})
    assert priced.nats_per_kbit == 0.1
    for wrong in ({"training": training}, {"nats_per_kbit": 0.1}):
        with pytest.raises(ValidationError, match="nats_per_kbit belongs to training"):
            AdapterSpec.model_validate(lora | wrong)
    with pytest.raises(ValidationError, match=f"data has no training '{training}'"):
        spec(training=training, nats_per_kbit=0.1)


def test_a_method_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValidationError, match="no method 'loar'; there are lora, lora_fa, "):
        AdapterSpec.model_validate({"method": "loar", **ADAPTER})
