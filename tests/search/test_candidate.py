"""Candidates in a line, also those of other versions."""

from typing import Any

import pytest

from kilobit.search.candidate import in_short, prompt_of


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
