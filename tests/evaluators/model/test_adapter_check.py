"""What PEFT refuses is refused before a search, and leaves nothing on the frozen model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kilobit.evaluators.model.adapter_check import check_family, check_in_packs, refusal, runs
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load, unchanged
from kilobit.evaluators.model.packing.deltas import detached
from kilobit.evaluators.model.packing.probe import outline
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.settings import InputError
from kilobit.search.space import Families
from tests.support.models import ARCHITECTURES
from tests.support.packs import spec


def on_meta(name: str) -> Any:
    about = ARCHITECTURES[name]
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(about.kind, vocab_size=400, **about.values)
        )


def check(name: str, model: Any, **family: Any) -> None:
    families = Families.model_validate({name: {"candidates": 1, **family}})
    check_family(name, families.named()[name], model, "MODEL", run=runs(model))


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [
        (
            "lora",
            {"target_modules": [["q_proj", "input_layernorm"]]},
            "no module 'input_layernorm'",
        ),
        ("lora", {"rank": [32]}, "families.lora.rank: 32 is too large for q_proj of MODEL"),
        ("lora_fa", {"rank": [32]}, "whose smaller side is 32; the largest is 31"),
        ("lora", {"layers": [[2]]}, "there is no layer 2"),
        ("trainable_tokens", {"tokens": [[400]]}, "there is no token 400"),
        ("weights", {"target_modules": [["nosuch"]]}, "no weight of MODEL is called 'nosuch'"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, family: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(
            name,
            on_meta("llama"),
            **{"target_modules": [["q_proj"]], **family} if "tokens" not in family else family,
        )


@pytest.mark.parametrize(
    ("architecture", "name", "family", "message"),
    [
        ("llama4", "lora", {"target_modules": [["router"]], "rank": [1]}, "on router: "),
        ("mamba", "soft_prompt", {}, "families.soft_prompt: MODEL can't have this adapter: "),
        ("mamba", "lora", {"target_modules": [["out_proj"]]}, "on out_proj: "),
    ],
)
def test_what_peft_refuses_is_refused_in_its_words_and_leaves_the_model(
    architecture: str, name: str, family: dict[str, Any], message: str
) -> None:
    model = on_meta(architecture)
    before = [(n, type(m)) for n, m in model.named_modules()]
    with pytest.raises(InputError, match=message):
        check(name, model, **family)
    assert [(n, type(m)) for n, m in model.named_modules()] == before


@pytest.mark.parametrize("name", ["lora", "lora_fa", "lora_xs", "vera", "fourierft", "ia3"])
def test_a_norm_among_the_targets_is_a_refusal_and_leaves_the_model(name: str) -> None:
    model = on_meta("llama")
    shape = {"fourierft": {"rank": None, "size": 9}, "ia3": {"rank": None}}.get(name, {})
    one = spec(method=name, target_modules=("q_proj", "input_layernorm"), **shape)
    assert refusal(model, one, run=True)
    assert refusal(model, one.model_copy(update={"target_modules": ("q_proj",)}), run=True) is None


@pytest.mark.parametrize(
    ("architecture", "name", "family", "why"),
    [
        ("llama", "lora", {"target_modules": [["q_proj", "down_proj"]]}, None),
        ("qwen3", "ln_tuning", {"target_modules": [["q_norm"]]}, None),
        ("qwen3", "lora", {"target_modules": [["lm_head"]]}, None),
        ("llama", "prompt", {}, None),
        ("llama", "soft_prompt", {}, None),
        ("llama", "fourierft", {}, "the method fourierft has to be installed in the model"),
        ("llama", "data", {}, "the method data has to be installed in the model"),
        ("opt", "lora", {"target_modules": [["fc1"]]}, "layers.0.fc1 does not see a batch row"),
        ("qwen2_moe", "lora", {"target_modules": [["o_proj", "down_proj"]]}, "shared_expert.down"),
        ("mamba", "prompt", {}, "its cache is not keys and values of every token"),
        ("lfm2", "prompt", {}, "its cache is not keys and values of every token"),
        ("falcon_h1", "prompt", {}, "its cache is not keys and values of every token"),
        ("qwen3_next", "prompt", {}, "its cache is not keys and values of every token"),
    ],
)
def test_what_would_run_alone_is_refused_on_a_split_model(
    architecture: str, name: str, family: dict[str, Any], why: str | None
) -> None:
    model = on_meta(architecture)
    families = Families.model_validate({name: {"candidates": 1, **family}})
    one = families.named()[name]
    if why is None:
        check_in_packs(name, one, model, outline(model), "MODEL")
    else:
        with pytest.raises(InputError, match=why):
            check_in_packs(name, one, model, outline(model), "MODEL")


@pytest.mark.parametrize(
    "target", ["self_attn.q_proj", "1.self_attn.q_proj", "model.layers.0.self_attn.q_proj"]
)
def test_a_target_may_be_the_end_of_a_path_as_in_peft(target: str, frozen: FrozenModel) -> None:
    for layers in ([None], [[1]]):
        check("lora", on_meta("llama"), target_modules=[[target]], layers=layers)
        one = spec(target_modules=(target,), layers=layers[0] and tuple(layers[0]))
        with installed(frozen, one):
            names = {
                name
                for name, module in frozen.model.named_modules()
                if hasattr(module, "base_layer")
            }
        assert names == {name for name, _ in frozen.model.named_modules() if one.targets(name)}
        assert names


@pytest.mark.parametrize("target", ["attn.q_proj", "self_attn", "q_proj.weight"])
def test_a_part_of_a_word_is_no_target(target: str) -> None:
    with pytest.raises(InputError, match="has no module"):
        check("lora", on_meta("llama"), target_modules=[[target]])


def test_every_method_can_be_had() -> None:
    model = on_meta("llama")
    assert runs(model)
    targets = {"target_modules": [["q_proj", "down_proj"], ["v_proj"]]}
    modules = ("lora", "lora_fa", "lora_xs", "vera", "tinylora", "unilora", "fourierft", "ia3")
    for name in (*modules, "steering", "coordinates", "seeds"):
        check(name, model, **targets)
    check("ln_tuning", model, target_modules=[["input_layernorm"]])
    check("trainable_tokens", model, tokens=[[1, 2]])
    check("soft_prompt", model)
    check("data", model, **targets)


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def state(frozen: FrozenModel) -> tuple[Any, ...]:
    """Return what an adapter could leave: modules, parameters, hooks, attributes."""
    modules = [
        (name, type(module), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in frozen.model.named_modules()
    ]
    parameters = [(name, w.requires_grad) for name, w in frozen.model.named_parameters()]
    return modules, parameters, sorted(vars(frozen.model)), unchanged(frozen)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "fourierft", "rank": None, "size": 9},
        {"method": "lora"},
        {"method": "vera"},
        {"method": "ia3", "rank": None},
        {"method": "steering", "rank": None},
        {"method": "lora_xs"},
    ],
)
def test_a_target_that_is_refused_half_way_leaves_nothing(
    frozen: FrozenModel, changes: dict[str, Any]
) -> None:
    before = state(frozen)
    one = spec(target_modules=("q_proj", "input_layernorm"), **changes)
    with pytest.raises((ValueError, TypeError, AttributeError, KeyError)), installed(frozen, one):
        pass
    assert state(frozen) == before
    if one.method != "fourierft":
        with pytest.raises((ValueError, TypeError, AttributeError, KeyError)):
            detached(frozen, one)
        assert state(frozen) == before


@pytest.mark.parametrize("changes", [{}, {"method": "data", "size": 8}])
def test_memory_that_runs_out_half_way_leaves_nothing(
    frozen: FrozenModel, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    before, real, calls = state(frozen), torch.nn.init.kaiming_uniform_, []

    def tight(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **options)

    one = spec(target_modules=("q_proj", "v_proj", "down_proj"), **changes)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.init, "kaiming_uniform_", tight)
        with pytest.raises(torch.OutOfMemoryError), installed(frozen, one):
            pass
    assert state(frozen) == before


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lora", {}),
        ("lora_fa", {}),
        ("lora_xs", {}),
        ("tinylora", {"rank": None, "size": 5}),
        ("vera", {}),
        ("unilora", {"rank": None, "size": 8}),
        ("ia3", {"rank": None}),
        ("steering", {"rank": None}),
        ("coordinates", {"rank": None, "size": 8, "draws": (0, 5)}),
        ("seeds", {"draws": (0, 5)}),
        ("fourierft", {"rank": None, "size": 9}),
        ("ln_tuning", {"rank": None, "target_modules": ("norm",)}),
        ("soft_prompt", {"rank": None, "size": 3, "target_modules": None}),
        ("weights", {"rank": None, "target_modules": ("input_layernorm",)}),
    ],
)
def test_a_removed_adapter_leaves_nothing(
    frozen: FrozenModel, method: str, changes: dict[str, Any]
) -> None:
    before = state(frozen)
    with installed(frozen, spec(method=method, **changes)):
        assert method == "soft_prompt" or state(frozen) != before
    assert state(frozen) == before
