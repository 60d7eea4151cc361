import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import FINEST_STEP, METHODS, AdapterSpec
from kilobit.search.candidate import Candidate, Prompt, in_short
from kilobit.search.space import Families, ModelFree, RateSearch, draw_candidates
from kilobit.search.task import Task, make_example
from tests.support.adapters import ADAPTER

TASK = load_miniature("numbers", 0)
SPACE = {
    "prompt": {"candidates": 8, "instructions": ["", "Number:"], "demonstrations": [0, 1, 2]},
    "lora": {"candidates": 5, "rank": [1, 2], "learning_rate": {"low": 0.001, "high": 0.1}},
}


def draw(space: dict[str, Any], models: list[str], seed: int = 0) -> list[Candidate]:
    families = Families.model_validate_json(json.dumps(space), strict=True)
    return draw_candidates(families, TASK, models, seed)


def test_each_model_gets_the_number_asked_for_and_begins_bare() -> None:
    candidates = draw(SPACE, ["a", "b"])
    assert Counter((c.model, c.family) for c in candidates) == {
        ("a", "prompt"): 8,
        ("a", "lora"): 5,
        ("b", "prompt"): 8,
        ("b", "lora"): 5,
    }
    assert candidates[:2] == [Candidate(task="numbers", model=m) for m in ("a", "b")]
    assert len({c.id for c in candidates}) == len(candidates)


def test_another_model_or_family_changes_no_draw() -> None:
    alone = [c for c in draw(SPACE, ["a"]) if c.family == "prompt"]
    beside = [c for c in draw(SPACE, ["z", "a"]) if c.model == "a" and c.family == "prompt"]
    assert alone == beside
    assert [c.prompt for c in beside] != [c.prompt for c in draw(SPACE, ["z"])]
    without = draw({"prompt": SPACE["prompt"]}, ["a"])
    assert {c.id for c in without} == {c.id for c in alone}


def test_the_seed_decides_the_draw() -> None:
    assert draw(SPACE, ["a"]) == draw(SPACE, ["a"])
    assert draw(SPACE, ["a"]) != draw(SPACE, ["a"], seed=1)


def test_demonstrations_come_from_the_train_split() -> None:
    train = {(e.input, e.target) for e in TASK.splits.train}
    shown = {d for c in draw(SPACE, ["a"]) for d in c.prompt.demonstrations}
    assert shown
    assert shown <= train


@pytest.mark.parametrize("method", ["lora", "lora_fa", "tinylora"])
def test_a_family_without_learning_rates_draws_from_the_range_of_its_method(method: str) -> None:
    low, high = METHODS[method].rates
    specs = [c.adapter for c in draw({method: {"candidates": 60}}, ["a"]) if c.adapter]
    assert all(spec.relative and low <= spec.learning_rate <= high for spec in specs)
    assert max(s.learning_rate for s in specs) > 4 * min(s.learning_rate for s in specs)
    given = {"candidates": 3, "learning_rate": {"low": 0.01, "high": 0.01}}
    named = [c.adapter for c in draw({method: given}, ["a"]) if c.adapter]
    assert {(s.relative, s.learning_rate, s.ratio) for s in named} == {(False, 0.01, 1.0)}


def test_the_factors_of_a_lora_learn_at_two_rates_unless_rates_are_named() -> None:
    def ratios(method: str, **changes: Any) -> set[float]:
        family = {"candidates": 3, "learning_rate": None, **changes}
        return {c.adapter.ratio for c in draw({method: family}, ["a"]) if c.adapter}

    rate = {"low": 0.01, "high": 0.1}
    assert ratios("lora") == {10.0}
    assert ratios("lora_fa") == {1.0}
    assert ratios("lora", learning_rate=rate) == {1.0}
    assert ratios("lora", learning_rate=rate, ratio=4) == {4.0}
    assert ratios("lora", ratio=1) == {1.0}


def test_a_space_smaller_than_asked_for_is_taken_whole() -> None:
    space = {"prompt": {"candidates": 50, "instructions": ["", "A", "B"], "demonstrations": [0]}}
    assert len(draw(space, ["a"])) == 3


def test_no_candidates_is_an_error() -> None:
    for space in ({}, {"prompt": {"candidates": 0}}):
        with pytest.raises(ValidationError, match="no candidates"):
            Families.model_validate(space)


def test_the_id_is_the_hash_of_the_canonical_json() -> None:
    spec = AdapterSpec(method="lora", rank=1, target_modules=("q",), **ADAPTER)
    candidate = Candidate(task="t", model="m", prompt=Prompt(instruction="ä"), adapter=spec)
    assert candidate.canonical() == (
        '{"adapter":{"batch_size":2,"learning_rate":0.01,"method":"lora","rank":1,"seed":3,'
        '"steps":5,"target_modules":["q"]},"model":"m","prompt":{"instruction":"ä"},"task":"t"}'
    )
    # Golden: ids in old ledgers must keep their meaning.
    assert candidate.id == "5de8d649b346fa45"
    again = Candidate.model_validate_json(candidate.canonical())
    assert again == candidate


def test_where_training_begins_is_part_of_the_id_only_if_it_is_given() -> None:
    spec = {"method": "lora", "rank": 1, "target_modules": ("q",), **ADAPTER}
    cold = Candidate(task="t", model="m", adapter=AdapterSpec.model_validate(spec))
    start = {"start": cold.id}
    warm = Candidate(task="t", model="m", adapter=AdapterSpec.model_validate(spec | start))
    assert "start" not in cold.canonical()
    assert f'"start":"{cold.id}"' in warm.canonical()
    assert Candidate.model_validate_json(warm.canonical()) == warm
    with pytest.raises(ValidationError, match="start"):
        AdapterSpec.model_validate(spec | {"start": "../states/x"})
    data = {"method": "data", "rank": 1, "size": 2, "target_modules": ("q",), **ADAPTER}
    with pytest.raises(ValidationError, match="data has no start"):
        AdapterSpec.model_validate(data | start)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_family_whose_draws_are_valid_and_seeded(name: str) -> None:
    family: dict[str, Any] = {"candidates": 4}
    if name == "trainable_tokens":
        family["tokens"] = [[1], [1, 2]]
    found = draw({name: family}, ["m"])
    assert len(found) == 4
    assert {c.family for c in found} == {name}
    assert found == draw({name: family}, ["m"])
    assert [c.id for c in found] != [c.id for c in draw({name: family}, ["m"], seed=1)]


def test_steps_are_combined_after_those_of_the_list() -> None:
    family = {
        "candidates": 40,
        "demonstrations": [0, 1],
        "postprocess": [["cut:."]],
        "postprocess_combine": ["lower", "last_word", "round:1"],
        "postprocess_most": 2,
    }
    drawn = [c.postprocess for c in draw({"prompt": family}, ["m"]) if c.postprocess]
    assert {len(steps) for steps in drawn} == {1, 2, 3}
    assert {steps[0] for steps in drawn} == {"cut:."}
    assert all(len(set(steps)) == len(steps) for steps in drawn)
    assert ("cut:.", "last_word", "lower") in drawn
    assert ("cut:.", "lower", "last_word") in drawn


def test_a_price_is_drawn_for_training_that_has_one() -> None:
    family = {"candidates": 20, "training": ["plain", "rate"], "nats_per_kbit": [0.5, 2.0]}
    drawn = {
        (c.adapter.training, c.adapter.nats_per_kbit)
        for c in draw({"lora": family}, ["m"])
        if c.adapter
    }
    assert drawn == {("plain", None), ("rate", 0.5), ("rate", 2.0)}


def test_reward_training_is_drawn_with_its_own_settings() -> None:
    family = {
        "candidates": 20, "rank": (1,), "training": ["plain", "rate", "reward"],
        "nats_per_kbit": [0.5], "population": 8, "spread": 2.0,
    }  # fmt: skip
    drawn = {
        (a.training, a.nats_per_kbit, a.population, a.spread, a.ratio)
        for c in draw({"lora": family}, ["m"])
        if (a := c.adapter)
    }
    assert drawn == {
        ("plain", None, None, 1.0, 10.0),
        ("rate", 0.5, None, 1.0, 10.0),
        ("reward", None, 8, 2.0, 1.0),
    }


def test_variants_differ_in_their_coding_alone() -> None:
    spec = AdapterSpec(method="lora", rank=4, target_modules=("q",), **ADAPTER)
    candidate = Candidate(task="t", model="m", adapter=spec)
    variants = RateSearch().variants(candidate)
    assert len({v.id for v in variants} | {candidate.id}) == len(variants) + 1 > 5
    finest = {"step": FINEST_STEP, "keep": 1.0}
    for variant in variants:
        assert variant.adapter is not None
        again = variant.adapter.model_copy(update=finest)
        assert variant.model_copy(update={"adapter": again}) == candidate
    assert {(v.adapter.step, v.adapter.keep) for v in variants if v.adapter} == {
        (0.25, 1.0), (0.5, 1.0), (1.0, 1.0), (1.5, 1.0), (2.0, 1.0),
        (0.5, 0.5), (1.0, 0.5), (0.5, 0.25), (1.0, 0.25),
    }  # fmt: skip
    assert RateSearch(steps=(0.125,), keep=()).variants(candidate) == []
    assert RateSearch().variants(Candidate(task="t", model="m")) == []


def test_a_prompt_renders_with_the_templates_of_the_task() -> None:
    prompt = Prompt(instruction="Number:", demonstrations=(("1 + 1?", "2"),))
    assert prompt.render(TASK) == "Number:\nQ: 1 + 1?\nA: 2\n"
    assert Prompt().render(TASK) == ""


def task_with(golds: Sequence[str]) -> Task:
    train = tuple(
        make_example(str(i), f"so it is {gold}", {"gold": gold}) for i, gold in enumerate(golds)
    )
    return replace(TASK, splits=replace(TASK.splits, train=train))


@pytest.mark.parametrize(
    ("golds", "constants"),
    [
        # Few targets: each of them, the most frequent first, without white space at its ends.
        (["b", "a ", "b", "c", "a", "c", "b"], ["b", "a", "c"]),
        # Those that do not repeat are no constant answers, and an empty one is none.
        (["a", "b", "c", "b", "", ""], ["b"]),
        (["a", "b", "c"], []),
        # Many targets: those that are most frequent, equal ones by name.
        ([f"{i}" for i in range(9)] * 2 + ["8"], ["8", "0"]),
    ],
)
def test_constants_are_the_frequent_answers_of_the_train_split(
    golds: list[str], constants: list[str]
) -> None:
    found = ModelFree().candidates(task_with(golds), "m")
    assert [(one.constant, one.family) for one in found] == [
        *((text, "constant") for text in constants),
        (None, "copy"),
    ]
    assert all(one.is_model_free and one.model == "m" for one in found)


def test_what_needs_no_model_can_be_turned_off() -> None:
    task = task_with(["a", "b"] * 3)
    assert [one.family for one in ModelFree(constants=0).candidates(task, "m")] == ["copy"]
    assert ModelFree(constants=0, copy_input=False).candidates(task, "m") == []
    assert [o.constant for o in ModelFree(constants=1).candidates(task, "m")] == ["a", None]


def test_a_given_prompt_is_one_candidate_and_no_family_to_draw_from() -> None:
    families = Families(
        prompt={"candidates": 1},
        given={"prompts": [{"text": "Add up.", "postprocess": ["last_number"]}]},
    )
    assert list(families.named()) == ["prompt"]
    for template in (False, True):
        on = families.on(template=template).given
        assert on is not None
        found = on.prompts[0].after("Add up.", TASK, "m")
        assert found.before(TASK) == "Add up.\n"
        assert (found.chat, found.postprocess) == (template, ("last_number",))
    assert families.on(template=True).use_chat
    with pytest.raises(ValueError, match="give one of `text`, `file` and `lines`"):
        Families(prompt={"candidates": 1}, given={"prompts": [{"text": "a", "file": "b"}]})


def test_an_adapter_from_elsewhere_may_be_a_folder_alone_and_says_that_it_is_not_trained() -> None:
    families = Families(prompt={"candidates": 1}, given={"adapters": ["a", {"folder": "b"}]})
    assert families.given is not None
    assert [str(one.folder) for one in families.given.adapters] == ["a", "b"]
    assert list(families.given.each()) == ["adapters.0", "adapters.1"]
    assert Families.model_validate_json(families.model_dump_json(), strict=True) == families
    with pytest.raises(ValueError, match="give `prompts` or `adapters`"):
        Families(prompt={"candidates": 1}, given={})
    with pytest.raises(ValueError, match="`field` belongs to `lines`"):
        Families(prompt={"candidates": 1}, given={"prompts": [{"text": "a", "field": "b"}]})
    adapter = {"method": "lora", "rank": 1, "target_modules": ("q_proj",), "learning_rate": 1.0}
    rest = {"batch_size": 1, "seed": 0}
    for wrong in ({"steps": 0}, {"steps": 1, "given": "0" * 16}):
        with pytest.raises(ValueError, match="1 step or more unless it is a given one"):
            AdapterSpec(**adapter, **rest, **wrong)
    given = AdapterSpec(**adapter, **rest, steps=0, given="0" * 16)
    candidate = Candidate(task="t", model="m", adapter=given)
    assert in_short(json.loads(candidate.canonical())) == "lora rank 1 on q_proj from elsewhere"
    assert [one.adapter.given for one in RateSearch().variants(candidate) if one.adapter] == [
        "0" * 16
    ] * 9
