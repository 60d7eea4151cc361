from collections.abc import Callable

import pytest

from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.proposers.operators_prompt import join, make_corpus, split
from kilobit.search.streams import stream
from tests.support.operators import LORA, PROMPT, SPEC, TRAIN, outcomes
from tests.support.worlds import FAMILIES, TASK

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


def test_words_of_the_corpus_are_those_of_instructions_and_of_the_train_split() -> None:
    corpus = make_corpus(FAMILIES.named().values(), TASK)
    assert ("Answer", "the", "question", "with", "a", "number.") in corpus.instructions
    words = {w for e in TASK.splits.train for w in (e.input + " " + e.target).split()}
    assert set(corpus.words) <= words
    assert corpus == make_corpus(FAMILIES.named().values(), TASK)
    pieces = {corpus.piece(stream(i)) for i in range(400)}
    assert {"One two", "Number:"} <= {" ".join(p) for p in pieces}
    assert join(split("a  b\nc")) == "a  b\nc"
