"""Arguments of IFEval's instructions that the harness would exchange for random ones."""

import random
import string
from collections.abc import Mapping
from typing import Any

import pytest

from kilobit.evaluators.tasks.published import ifeval
from kilobit.evaluators.tasks.published.ifeval import check_response, ifeval_prompt
from tests.support.tasks.ifeval_cases import KINDS, instruction_types

pytest.importorskip("lm_eval")
ODD: tuple[Any, ...] = (
    None, 0, -1, 1, 2, 3.0, 2.5, 10**12, True, False, "", " ", "0", "3", "a", "A", "é", "#", "(",
    "less than", "at least", "at most", "LESS THAN", "en", "xx", [], [""], ["a"], ["a", "("], [1],
    "P.S.", ("a",), {}, {"a": 1}, float("nan"), float("inf"),
)  # fmt: skip


def record(kind: str, arguments: Mapping[str, Any], key: int = 1) -> dict[str, Any]:
    return {
        "key": key,
        "prompt": "Write.",
        "instruction_id_list": [kind],
        "kwargs": [dict(arguments)],
    }


def accepted(kind: str, arguments: Mapping[str, Any], key: int = 1) -> bool:
    try:
        ifeval_prompt(record(kind, arguments, key), "data.jsonl, line 7")
    except ValueError as error:
        assert str(error).startswith("data.jsonl, line 7: kwargs {")
        return False
    return True


def drawn(kind: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether the harness uses something else than the given arguments."""
    used = []
    for seed in range(12):
        random.seed(seed)
        instruction = ifeval._harness().instructions_registry.INSTRUCTION_DICT[kind](kind)
        instruction.build_description(**{k: v for k, v in arguments.items() if v})
        used.append(instruction.get_instruction_args())
    return any(one != used[0] for one in used)


def test_every_type_is_in_the_table() -> None:
    assert len(instruction_types()) == 25
    assert set(KINDS) == set(instruction_types())


@pytest.mark.parametrize("kind", KINDS)
def test_no_accepted_argument_is_exchanged_for_a_random_one(kind: str) -> None:
    good = KINDS[kind][0](random.Random(5))
    assert accepted(kind, good)
    assert not accepted(kind, good | {"nonsense": 1})
    assert not accepted(kind, good | {"nonsense": 0})
    for name in good:
        assert not accepted(kind, {k: v for k, v in good.items() if k != name})
        for odd in ODD:
            if accepted(kind, good | {name: odd}):
                assert not drawn(kind, good | {name: odd}), (name, odd)
                assert type(odd) in (type(good[name]), float, tuple), (name, odd)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            "detectable_content:number_placeholders",
            {"num_placeholders": 0},
            "num_placeholders must be a whole number from 1, found 0",
        ),
        (
            "detectable_format:number_bullet_lists",
            {"num_bullets": -2},
            "num_bullets must be a whole number from 1, found -2",
        ),
        ("length_constraints:number_words", {"num_words": 5}, "relation is missing"),
        (
            "length_constraints:number_words",
            {"num_words": 5, "relation": "at most"},
            r"relation must be one of \('less than', 'at least'\), found 'at most'",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
            "nth_paragraph must not be more than num_paragraphs",
        ),
        ("keywords:existence", {"keywords": "harbour"}, "keywords must be a list of texts"),
        ("keywords:existence", {"keywords": ["good", "C++("]}, "keywords must be a list of texts"),
        (
            "keywords:letter_frequency",
            {"letter": "#", "let_frequency": 4, "let_relation": "at least"},
            "letter must be a letter from a to z, found '#'",
        ),
        ("startend:end_checker", {"end_phrase": " "}, "end_phrase must be a text"),
        ("punctuation:no_comma", {"num_words": 3}, "there is no argument 'num_words'"),
    ],
)
def test_the_message_names_file_line_and_argument(
    kind: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^data\.jsonl, line 7: kwargs .*{kind}: {message}"):
        ifeval_prompt(record(kind, arguments), "data.jsonl, line 7")


def test_the_two_official_signs_are_let_through() -> None:
    kind = "keywords:letter_frequency"
    signs = {key: {"letter": sign, "let_frequency": 4, "let_relation": "at least"}
             for key, sign in ((1122, "#"), (1129, "!"))}  # fmt: skip
    assert all(accepted(kind, arguments, key) for key, arguments in signs.items())
    assert not accepted(kind, signs[1122], 1129)
    # The harness counts a letter instead; it is the same letter whenever the record is scored.
    prompt = ifeval_prompt(record(kind, signs[1122], 1122), "data.jsonl, line 7")
    found = {check_response(prompt, letter * 4).strict for letter in string.ascii_lowercase}
    assert found == {(True,), (False,)}
    assert not check_response(prompt, "#" * 4).strict[0]


def test_null_means_absent_as_in_the_version_of_the_hub() -> None:
    everything = dict.fromkeys(("num_words", "relation", "letter", "keywords"))
    assert accepted("startend:quotation", everything)
