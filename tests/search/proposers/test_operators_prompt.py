from collections.abc import Callable

import pytest

from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.proposers.evolution import OPERATORS
from kilobit.search.proposers.operators_adapter import near
from kilobit.search.proposers.operators_prompt import Corpus, Surroundings, join, make_corpus, split
from kilobit.search.proposers.population import Member
from kilobit.search.streams import stream
from tests.support.worlds import FAMILIES, TASK, assert_allowed

TRAIN = [(e.input, e.target) for e in TASK.splits.train]
CORPUS = Corpus((("Number:",), ("one", "two", "three")), ("word",))
PROMPT = Candidate(
    task="numbers",
    model="m",
    prompt=Prompt(instruction="a b c d", demonstrations=tuple(TRAIN[:2])),
    postprocess=("last_number",),
)
SPEC = AdapterSpec(
    method="lora",
    rank=2,
    target_modules=("v_proj",),
    layers=(0, 1),
    learning_rate=0.01,
    steps=60,
    batch_size=16,
    seed=5,
    training="rate",
    nats_per_kbit=0.01,
    step=0.5,
    keep=0.5,
)
LORA = Candidate(task="numbers", model="m", prompt=Prompt(instruction="Number:"), adapter=SPEC)
MATE = PROMPT.model_copy(
    update={"prompt": Prompt(instruction="x y", demonstrations=(TRAIN[7],)), "chat": True}
)
DATA = LORA.model_copy(
    update={
        "prompt": Prompt(),
        "adapter": AdapterSpec(
            method="data", rank=4, size=64, target_modules=("q_proj", "v_proj"),
            learning_rate=1e-3, steps=64, batch_size=1, seed=1,
        )
    }
)  # fmt: skip


def around(*, mate: Candidate | None = None, trained: bool = False) -> Surroundings:
    return Surroundings(FAMILIES.named(), TASK, CORPUS, mate, trained)


def outcomes(
    operator: str, parent: Candidate, near_it: Surroundings | None = None
) -> list[Candidate]:
    """Everything that an operator makes of a parent, in 300 draws; each is new and allowed."""
    found: dict[Candidate, None] = {}
    for i in range(300):
        child = OPERATORS[operator](parent, near_it or around(), stream("test", operator, i))
        if child is not None:
            found[child] = None
    for child in found:
        assert_allowed(child)
        assert child != parent
    return list(found)


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


WORDS = {
    "delete words": lambda w: len(w) < 4 and all(word in "abcd" for word in w),
    "swap words": lambda w: sorted(w) == ["a", "b", "c", "d"],
    "replace words": lambda w: 3 <= len(w) <= 6 and set(w) - set("abcd"),
    "insert words": lambda w: len(w) > 4 and [x for x in w if x in "abcd"] == list("abcd"),
}


@pytest.mark.parametrize("operator", WORDS)
def test_words_of_the_instruction_change(operator: str) -> None:
    says: Callable[[list[str]], object] = WORDS[operator]
    children = outcomes(operator, PROMPT)
    assert len(children) > 4
    for child in children:
        assert says(split(child.prompt.instruction)), child.prompt.instruction
        # The instruction alone.
        back = child.prompt.model_copy(update={"instruction": PROMPT.prompt.instruction})
        assert child.model_copy(update={"prompt": back}) == PROMPT


def test_a_run_of_words_is_left_out_not_any_words() -> None:
    found = {c.prompt.instruction for c in outcomes("delete words", PROMPT)}
    assert found == {"b c d", "a c d", "a b d", "a b c", "c d", "a d", "a b", "d", "a"}


def test_an_instruction_ends_at_twice_the_longest_listed() -> None:
    full = PROMPT.model_copy(update={"prompt": Prompt(instruction="w " * 11 + "w")})
    assert outcomes("insert words", full) == []
    # Where a family lists none, none begins.
    tiny = Candidate(task="numbers", model="m", adapter=SPEC.model_copy(
        update={"method": "tinylora", "rank": None, "size": 13, "layers": None}
    ))  # fmt: skip
    assert outcomes("insert words", tiny) == []
    assert outcomes("delete words", tiny) == []


def test_demonstrations_come_and_go_one_at_a_time() -> None:
    shown = set(PROMPT.prompt.demonstrations)
    counts = {
        "add demonstration": (3, 2),
        "drop demonstration": (1, 1),
        "swap demonstration": (2, 1),
    }
    for operator, (count, common) in counts.items():
        for child in outcomes(operator, PROMPT):
            assert len(child.prompt.demonstrations) == count
            assert len(shown & set(child.prompt.demonstrations)) == common
    assert len(outcomes("drop demonstration", PROMPT)) == 2
    full = PROMPT.model_copy(update={"prompt": Prompt(demonstrations=tuple(TRAIN[:4]))})
    assert outcomes("add demonstration", full) == []
    bare = Candidate(task="numbers", model="m")
    assert outcomes("drop demonstration", bare) == outcomes("swap demonstration", bare) == []


def test_steps_are_added_dropped_and_replaced() -> None:
    found = {child.postprocess for child in outcomes("change steps", PROMPT)}
    assert found == {
        (), ("lower",), ("cut:.",), ("lower", "last_number"), ("last_number", "lower"),
        ("cut:.", "last_number"), ("last_number", "cut:."),
    }  # fmt: skip


def test_chat_and_limit_are_those_listed() -> None:
    assert [c.chat for c in outcomes("flip chat", PROMPT)] == [True]
    assert [c.max_new_tokens for c in outcomes("change limit", PROMPT)] == [6]
    assert outcomes("flip chat", LORA) == outcomes("change limit", LORA) == []


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


def test_words_of_the_corpus_are_those_of_instructions_and_of_the_train_split() -> None:
    corpus = make_corpus(FAMILIES.named().values(), TASK)
    assert ("Answer", "the", "question", "with", "a", "number.") in corpus.instructions
    words = {w for e in TASK.splits.train for w in (e.input + " " + e.target).split()}
    assert set(corpus.words) <= words
    assert corpus == make_corpus(FAMILIES.named().values(), TASK)
    pieces = {corpus.piece(stream(i)) for i in range(400)}
    assert {"One two", "Number:"} <= {" ".join(p) for p in pieces}
    assert join(split("a  b\nc")) == "a  b\nc"


def test_members_are_named() -> None:
    assert Member("x", 1024, 0.5, None).length == 10
