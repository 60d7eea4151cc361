"""Contract of adapter methods: each method of `METHODS` keeps it, and so does one that is added.

The added one is known to the project by one object alone, as `docs/add-method.md` asks for.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.oracles import run_program
from kilobit.cluster.driver.check import count_numbers
from kilobit.cluster.driver.check_models import shapes_of
from kilobit.evaluators.model.adapted import AdaptedModel
from kilobit.evaluators.model.adapters import Trained, installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.packing.deltas import detached
from kilobit.evaluators.model.packing.passes import Planner
from kilobit.evaluators.model.packing.train import Job, train_pack
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.text_codec import learn
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.proof.export import spec_of
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import METHODS, SHAPE_FIELDS, AdapterSpec, Method, peft_config
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from kilobit.search.programs.numbers import Tensor
from kilobit.search.programs.program import Program
from kilobit.search.programs.script import readable_script
from kilobit.search.space import draw_candidates, families_of
from tests.support import adapters
from tests.support.adapters import ADAPTER, spec
from tests.support.fresh_process import printed
from tests.support.recipes import adapter_spec

HRA = Method(
    "Householder reflections of the base weight",
    "arXiv 2405.17484",
    ("rank", "target_modules", "layers"),
    lambda spec, shape: spec.rank * shape[1],
    "HRAConfig",
)
NAMES = (*METHODS, "hra")
TASK = load_miniature("numbers", 0)
LESSON = Lesson(TASK, "", TASK.splits.train)
INPUTS = [example.input for example in TASK.splits.search[:6]]
PACKED = {
    *("lora", "lora_fa", "lora_xs", "tinylora", "vera", "unilora"),
    *("ia3", "steering", "ln_tuning", "soft_prompt", "coordinates", "seeds"),
}
FIELDS = dict(zip(SHAPE_FIELDS, (2, 8, ("q_proj",), (1,), (28,), (3,)), strict=True))

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def with_one_more() -> Iterator[None]:
    assert "hra" not in METHODS, "the contract needs another stand-in for a method to come"
    METHODS["hra"] = HRA
    yield
    del METHODS["hra"]


@pytest.fixture(scope="module")
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def spec_of_method(name: str) -> AdapterSpec:
    return adapters.spec() if METHODS[name].examples else adapter_spec(name)


@dataclass(frozen=True)
class Made:
    """A program of an adapter that was trained alone, and the outputs with its coded numbers."""

    program: Program
    coded: tuple[list[Tensor], bool | None]
    outputs: list[str]
    trained: Trained
    tensors: list[Tensor]


def made(frozen: FrozenModel, folder: Path, name: str) -> Made:
    builder = Builder(frozen, BaseModelConfig(regime="r", path=folder), TASK, 4, "program")
    one = spec_of_method(name)
    candidate = Candidate(task=TASK.name, model="r", adapter=one, max_new_tokens=6)
    with installed(frozen, one) as adapter:
        before = adapter.tensors()
        if METHODS[name].examples:
            learned = learn(frozen, adapter, TASK, one.steps, exact=True)
            trained, tensors, coded = learned.trained, adapter.tensors(), ([], None)
            program = builder.build(candidate, {}, adapter, learned)
        else:
            trained = adapter.train(frozen, LESSON, one.steps)
            tensors = adapter.tensors()
            program = builder.build(candidate, {}, adapter, tensors)
            decoded = builder.decode(program)
            coded = (decoded.tensors, decoded.delta)
            adapter.assign(*coded)
        assert any((a != b).any() for a, b in zip(before, tensors, strict=True)), name
        outputs = run_program(program, "", frozen, adapter.model, INPUTS)
    return Made(program, coded, outputs, trained, tensors)


@pytest.fixture(scope="module")
def programs(frozen: FrozenModel, model_folders: dict[str, Path]) -> dict[str, Made]:
    return {name: made(frozen, model_folders["llama"], name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_takes_its_own_fields_and_no_others(name: str) -> None:
    own = METHODS[name].fields
    given = {"method": name, **adapters.ADAPTER, **{field: FIELDS[field] for field in own}}
    AdapterSpec.model_validate(given)
    for field in SHAPE_FIELDS:
        less = {key: value for key, value in given.items() if key != field}
        if field not in own:
            with pytest.raises(ValidationError, match=f"{name} has no {field}"):
                AdapterSpec.model_validate({**given, field: FIELDS[field]})
        elif field == "layers":
            AdapterSpec.model_validate(less)
        else:
            with pytest.raises(ValidationError, match=f"{name} needs {field}"):
                AdapterSpec.model_validate(less)
    with pytest.raises(ValidationError, match="nosuch"):
        AdapterSpec.model_validate({**given, "nosuch": 1})


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_file_may_set_the_fields_of_a_method(name: str) -> None:
    listed = {field: [FIELDS[field]] for field in METHODS[name].fields}
    model = families_of(METHODS)

    def families(**more: Any) -> Any:
        family = {"candidates": 3, **listed, **more}
        return model.model_validate_json(json.dumps({name: family}), strict=True)

    drawn = draw_candidates(families(), TASK, ["m"], 0)
    specs = [candidate.adapter for candidate in drawn if candidate.adapter is not None]
    assert len(specs) == 3
    for one in specs:
        assert one.method == name
        assert all(getattr(one, field) == value[0] for field, value in listed.items())
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        families(nosuch=[1])


@pytest.mark.parametrize("name", NAMES)
def test_as_many_numbers_are_counted_as_are_trained(frozen: FrozenModel, name: str) -> None:
    whole = spec_of_method(name)
    specs = [whole]
    if "layers" in METHODS[name].fields:
        specs.append(whole.model_copy(update={"layers": (1,)}))
    for one in specs:
        with installed(frozen, one) as adapter:
            trained = sum(p.numel() for p in adapter.model.parameters() if p.requires_grad)
            held = sum(tensor.size for tensor in adapter.tensors())
        assert held == count_numbers(one, shapes_of(frozen.model))
        # Copies of weights are on the model as such; elsewhere PEFT says what is trained.
        assert trained == held


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_adapter_is_fully_in_its_program(
    programs: dict[str, Made], frozen: FrozenModel, name: str
) -> None:
    found, method = programs[name], METHODS[name]
    recipe, source = found.program.recipe, readable_script(found.program.recipe)
    assert found.trained.steps == spec_of_method(name).steps
    if recipe.data is not None:
        statements = method.statements(method.config, recipe.data.arguments)
    else:
        assert recipe.adapter is not None
        part = recipe.adapter
        statements = method.statements(part.config, part.arguments, part.factor_sum)
        assert f"    if {method.condition(part.targets)}:\n" in source
        if part.config is not None:
            restored, own = spec_of(part), spec_of_method(name)
            assert all(getattr(restored, f) == getattr(own, f) for f in SHAPE_FIELDS)
    assert "\n".join(statements) in source
    assert weights_digest(frozen.model) == frozen.digest


def test_all_programs_say_in_another_process_what_the_search_recorded(
    programs: dict[str, Made], model_folders: dict[str, Path]
) -> None:
    files = {name: one.program for name, one in programs.items()}
    found = printed(files, model_folders["llama"], INPUTS)
    assert found == {name: one.outputs for name, one in programs.items()}


def test_a_pack_trains_and_says_what_each_adapter_does_alone(
    programs: dict[str, Made], frozen: FrozenModel
) -> None:
    beside = {name: detached(frozen, spec_of_method(name)) for name in NAMES}
    assert {name for name, found in beside.items() if found is not None} >= PACKED
    assert beside["hra"] is None
    jobs = {
        name: Job(*found, LESSON, spec_of_method(name).steps)
        for name, found in beside.items()
        if found is not None
    }
    train_pack(frozen, list(jobs.values()), Planner())
    for name, job in jobs.items():
        expected = programs[name]
        assert job.error is None
        assert job.trained.loss == pytest.approx(expected.trained.loss, abs=1e-5), name
        for tensor, other in zip(job.adapter.tensors(), expected.tensors, strict=True):
            assert tensor == pytest.approx(other, abs=3e-4), name
        job.adapter.assign(*expected.coded)
        model = AdaptedModel(frozen, changes=job.changes, num_soft=spec_of_method(name).num_soft)
        recipe = expected.program.recipe
        questions = [TASK.ask(text) for text in INPUTS]
        found = model.answer(questions, recipe.max_new_tokens, recipe.stop)
        assert found == expected.outputs, name


def test_the_added_method_has_the_statement_that_peft_asks_for(programs: dict[str, Made]) -> None:
    source = readable_script(programs["hra"].program.recipe)
    assert (
        "model = peft.get_peft_model(model, peft.HRAConfig("
        "r=2, target_modules=['q_proj', 'down_proj']))\n"
    ) in source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": None}, "data needs size"),
        ({"tokens": (3,)}, "data has no tokens"),
        ({"step": 0.5}, "data has no step and no keep"),
        ({"relative": True}, "data has no relative learning rate"),
        ({"ratio": 10.0}, "data has no ratio: it does not train factors A and B"),
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
        ("steering", {}, ("LoraConfig", {"lora_bias": True})),
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


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"population": 8}, "population and spread belong to training `reward`"),
        ({"spread": 2.0}, "population and spread belong to training `reward`"),
        ({"training": "reward", "ratio": 4.0}, "training `reward` has no ratio"),
        ({"training": "reward", "nats_per_kbit": 0.1}, "nats_per_kbit belongs to training"),
        ({"training": "reward", "population": 7}, "multiple of 2"),
        ({"training": "reward", "spread": 0.0}, "greater than 0"),
    ],
)
def test_a_population_and_a_spread_belong_to_training_by_reward(
    wrong: dict[str, object], told: str
) -> None:
    lora = {"method": "lora", "rank": 1, "target_modules": ("q",), **ADAPTER}
    with pytest.raises(ValidationError, match=told):
        AdapterSpec.model_validate(lora | wrong)
    right = {"training": "reward", "population": 8, "spread": 2.0}
    assert AdapterSpec.model_validate(lora | right).num_pairs(1000) == 4


def test_a_method_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValidationError, match="no method 'loar'; there are lora, lora_fa, "):
        AdapterSpec.model_validate({"method": "loar", **ADAPTER})
