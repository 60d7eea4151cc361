"""Candidates in a line, also those of other versions."""

from typing import Any

import pytest

from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.candidate import Candidate, Prompt, in_short, prompt_of

# Its question ends a line, and its answer ends at a line end.
TASK = load_miniature("numbers", 0)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, "the question alone"),
        ({"prompt": {"instruction": "Say"}}, "an instruction"),
        (
            {"prompt": {"demonstrations": [["a", "b"]]}, "chat": True},
            "1 demonstration; chat template",
        ),
        (
            {"prompt": {"demonstrations": [["a", "b"]] * 2}, "chat": True, "turns": True},
            "2 demonstrations as turns; chat template",
        ),
        (
            {"prompt": {"demonstrations": [["a", "b"]] * 2}, "postprocess": ["lower", "cut:."]},
            "2 demonstrations; output: lower, cut:.",
        ),
        (
            {
                "adapter": {
                    "method": "lora",
                    "rank": 1,
                    "target_modules": ["q_proj", "v_proj"],
                    "layers": [2, 3],
                    "steps": 90,
                    "training": "rate",
                    "step": 0.5,
                }
            },
            "lora rank 1 on q_proj, v_proj of layers 2, 3 in 90 steps trained for rate "
            "rounded to 0.5",
        ),
        ({"adapter": {"new": 1}}, "adapter"),
    ],
)
def test_a_candidate_is_a_line(spec: dict[str, Any], text: str) -> None:
    assert in_short(spec) == text


def test_a_prompt_is_its_instruction_and_demonstrations() -> None:
    prompt = {"instruction": "Count.", "demonstrations": [["1 + 1", "2"], ["2 + 2", "4"]]}
    assert prompt_of({"prompt": prompt}) == "Count.\n1 + 1\n2\n2 + 2\n4"
    assert prompt_of({}) == ""


def shown(*demonstrations: tuple[str, str], instruction: str = "", **changes: bool) -> Candidate:
    prompt = Prompt(instruction=instruction, demonstrations=demonstrations)
    about = {"task": "numbers", "model": "m", "prompt": prompt, "chat": True, "turns": True}
    return Candidate.model_validate(about | changes)


def test_demonstrations_are_turns_of_user_and_model() -> None:
    one = shown(("1 + 1?", "2"), ("2 + 2?", "4"), instruction="Number:")
    turns = ["Number:\nQ: 1 + 1?\nA:", "2", "Q: 2 + 2?\nA:", "4"]
    assert one.prompt.turns(TASK) == turns
    # A line end is a part of a turn, an empty line is not.
    assert (one.between_turns(TASK), one.before(TASK)) == ("\n\n", "\n\n".join(turns))
    other = shown(("1 +\n\n1?", "2"))
    assert other.before(TASK) == "Q: 1 +\n\n1?\nA:\x002"
    # What would be split elsewhere is not chosen.
    assert shown(("1 + 1?", "2\n"), ("2 + 2?", "4")).between_turns(TASK) == "\0"
    assert shown(("1 +\n\n1\0?", "2")).between_turns(TASK) == ""


@pytest.mark.parametrize(
    "one",
    [
        shown(("1 + 1?", "2"), instruction="Number:", turns=False),
        shown(("1 + 1?", "2"), instruction="Number:", chat=False),
        shown(instruction="Number:"),
        shown(("1 +\n\n1\0?", "2"), instruction="Number:"),
    ],
)
def test_another_prompt_is_a_part_of_the_questions_turn(one: Candidate) -> None:
    assert (one.between_turns(TASK), one.before(TASK)) == ("", one.prompt.render(TASK))


def test_an_old_candidate_keeps_its_id() -> None:
    old = '{"chat":true,"model":"m","prompt":{"demonstrations":[["1 + 1?","2"]]},"task":"numbers"}'
    assert Candidate.model_validate_json(old).canonical() == old
    assert not Candidate.model_validate_json(old).turns
