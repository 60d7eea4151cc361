from dataclasses import replace

from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.proposers.evolution import OPERATORS
from kilobit.search.proposers.operators_adapter import near
from kilobit.search.proposers.operators_prompt import Surroundings
from kilobit.search.space import NoiseFamily
from kilobit.search.streams import stream
from tests.support.operators import DATA, LORA, PROMPT, SPEC, TRAIN, around, outcomes
from tests.support.worlds import FAMILIES

MATE = PROMPT.model_copy(
    update={"prompt": Prompt(instruction="x y", demonstrations=(TRAIN[7],)), "chat": True}
)


def specs(operator: str, near_it: Surroundings | None = None) -> list[AdapterSpec]:
    """The adapters that an operator makes of LORA, whose prompt stays."""
    children = outcomes(operator, LORA, near_it)
    assert {c.prompt for c in children} <= {LORA.prompt}
    return [c.adapter for c in children if c.adapter]


def only(specs: list[AdapterSpec], **field: str) -> None:
    """Check that nothing but a field differs from SPEC."""
    for spec in specs:
        changes = {name: getattr(SPEC, name) for name in field}
        assert spec.model_copy(update=changes) == SPEC


def test_ranks_and_steps_move_by_two_or_to_a_neighbour_and_not_beyond_the_largest() -> None:
    found = specs("change rank")
    only(found, rank="")
    assert {s.rank for s in found} == {1, 4, 6}
    assert {s.steps for s in specs("change train steps")} == {30, 120, 180}
    assert near(6, (1, 2, 6)) == [2, 3]
    assert near(1, (1,)) == []


def test_layers_and_modules_come_in_and_go_out() -> None:
    found = specs("change layers")
    only(found, layers="")
    assert {s.layers for s in found} == {(0,), (1,), (0, 1, 3), None}
    found = specs("change modules")
    only(found, target_modules="")
    assert {s.target_modules for s in found} == {("q_proj", "v_proj"), ("down_proj", "v_proj")}
    tokens = LORA.model_copy(update={"adapter": AdapterSpec(
        method="trainable_tokens", tokens=(3,), learning_rate=0.01, steps=60, batch_size=1, seed=1
    )})  # fmt: skip
    family = FAMILIES.trainable_tokens
    assert family is not None
    child = OPERATORS["change tokens"](tokens, around(), stream("t"))
    assert child is not None
    assert child.adapter is not None
    assert child.adapter.tokens == (1, 2)


def test_a_seed_of_noise_comes_goes_or_is_replaced() -> None:
    family = NoiseFamily(candidates=1, draws=4, seeds=(1, 2))
    noisy = LORA.model_copy(update={"adapter": AdapterSpec(
        method="seeds", rank=1, target_modules=("q_proj",), draws=(1, 3), learning_rate=0.01,
        steps=60, batch_size=1, seed=1,
    )})  # fmt: skip
    there = replace(around(), families={"seeds": family})
    rng = stream("t")
    children = [OPERATORS["change draws"](noisy, there, rng) for _ in range(60)]
    found = {child.adapter.draws for child in children if child and child.adapter}
    assert found == {(3,), (1,), (0, 3), (2, 3), (0, 1), (1, 2)}
    assert OPERATORS["change draws"](LORA, around(), rng) is None


def test_training_changes_within_what_is_listed() -> None:
    rates = specs("change learning rate")
    only(rates, learning_rate="")
    assert {s.learning_rate for s in rates} == {0.0025, 0.005, 0.0077, 0.013, 0.02, 0.04}
    (plain,) = specs("change training")
    assert (plain.training, plain.nats_per_kbit) == ("plain", None)
    prices = specs("change price")
    only(prices, nats_per_kbit="")
    assert {s.nats_per_kbit for s in prices} == {0.0033, 0.0067, 0.015, 0.03}


def test_the_coding_becomes_finer_and_coarser() -> None:
    steps, kept = specs("change coarseness"), specs("change kept")
    only(steps, step="")
    only(kept, keep="")
    assert {s.step for s in steps} == {0.25, 1.0}
    assert {s.keep for s in kept} == {0.25, 1.0}
    assert outcomes("change coarseness", DATA) == outcomes("change kept", DATA) == []


def test_data_stays_within_the_examples_that_its_steps_reach() -> None:
    assert {c.adapter.size for c in outcomes("change size", DATA) if c.adapter} == {8, 32}
    assert {c.adapter.steps for c in outcomes("change train steps", DATA) if c.adapter} == {128}


def test_a_transfer_begins_a_neighbour_from_a_trained_adapter() -> None:
    found = specs("transfer", around(trained=True))
    assert {s.start for s in found} == {LORA.id}
    assert {s.rank for s in found} == {1, 2, 4, 6}
    assert len({s.learning_rate for s in found}) > 2
    assert specs("transfer", around(trained=False)) == []
    assert outcomes("transfer", DATA, around(trained=True)) == []
    # What its numbers mean depends on random numbers that another shape would draw anew.
    spec = SPEC.model_copy(update={"method": "tinylora", "rank": None, "size": 13, "layers": None})
    # Its family names no learning rates, so they are relative.
    spec = spec.model_copy(update={"learning_rate": 0.1, "relative": True})
    tiny = Candidate(task="numbers", model="m", adapter=spec.model_copy(
        update={"training": "plain", "nats_per_kbit": None, "steps": 90}
    ))  # fmt: skip
    children = outcomes("transfer", tiny, around(trained=True))
    assert {c.adapter.size for c in children if c.adapter} == {13}


def test_a_crossover_takes_the_prompt_of_the_mate_as_far_as_the_family_has_it() -> None:
    (child,) = outcomes("crossover", LORA, around(mate=MATE))
    assert child.adapter == SPEC
    assert child.prompt == MATE.prompt
    # lora lists no steps, no chat, and one demonstration at most.
    assert (child.postprocess, child.chat) == ((), False)
    (child,) = outcomes("crossover", LORA, around(mate=PROMPT))
    assert child.prompt == Prompt(instruction="a b c d")
    assert outcomes("crossover", LORA) == outcomes("crossover", PROMPT, around(mate=LORA)) == []


def test_adapter_operators_leave_a_prompt_alone() -> None:
    for operator in OPERATORS:
        if "change" in operator and operator not in ("change steps", "change limit"):
            assert outcomes(operator, PROMPT) == []
