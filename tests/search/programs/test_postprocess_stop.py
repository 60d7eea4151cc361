"""An output is cut before its stop string, and steps see the cut text."""

import json
import re
from dataclasses import replace

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.programs.postprocess import RULE, cut, cut_source, postprocess
from kilobit.search.programs.script import readable_script
from kilobit.search.task import Task
from tests.support.recipes import BARE

TASK = load_miniature("numbers", 0)
STOPS = st.lists(st.text("ab\n.*|\\^] Q", min_size=1, max_size=3), max_size=3)


def make_task(stop: tuple[str, ...]) -> Task:
    return replace(TASK, stop=stop)


class Given:
    """A tokenizer that returns a given text, and a batch of no columns."""

    def __init__(self, text: str) -> None:
        self.text, self.input_ids, self.shape = text, self, (0, 0)

    def decode(self, _: object, **__: object) -> str:
        return self.text


@pytest.mark.parametrize(
    ("stop", "steps", "generated", "scored"),
    [
        (("\nQ:",), ("last_word",), " 42\nQ:", "42"),
        (("\nQ: ",), ("last_word",), " 42\nQ: What", "42"),
        (("\nQ: ",), ("last_number",), " 42\nQ: 7", "42"),
        (("\n\n", "\nQuestion:"), ("last_word",), " 42\nQuestion:", "42"),
        (("\n\n", "\nQuestion:"), ("last_number",), " 42\n\n7", "42"),
        (("\n",), ("first_word",), "\nnext", ""),
        (("\nQ:",), ("lower",), "Yes\nQ:", "yes"),
        (("\nQ:",), ("no_final_period",), "Yes.\nQ:", "Yes"),
        (("END",), ("upper",), "the end END", "THE END "),
        (("2.5",), ("round:1",), "it is 2.49 2.5", "it is 2.5 "),
        (("ab", "bcd"), ("first_word",), "x abcd", "x"),
        ((".", "a|b"), ("last_word",), "x a|b.", "x"),
        (("\n",), (), " 42\nQ: 7", " 42"),
        ((), ("last_word",), " 42\nQ:", "Q:"),
    ],
)
def test_what_is_scored_ends_before_the_stop(
    stop: tuple[str, ...], steps: tuple[str, ...], generated: str, scored: str
) -> None:
    printed = postprocess(generated, steps, stop)
    assert make_task(stop).cut(printed, steps) == scored


@given(st.text("ab\n.*|\\^] Q", max_size=20), STOPS)
def test_the_expression_cuts_where_the_task_does(text: str, stop: list[str]) -> None:
    assert eval(cut_source("text", stop), {"text": text, "re": re}) == cut(text, stop)
    assert make_task(tuple(stop)).cut(text) == cut(text, stop)


@given(st.text("ab\n.*|\\^] Q7", max_size=20), STOPS, st.sampled_from(["lower", "last_word"]))
def test_a_program_prints_what_the_search_scores(text: str, stop: list[str], step: str) -> None:
    recipe = BARE.model_copy(
        update={"stop": tuple(stop), "postprocess": (step, "last_number"), "steps_rule": RULE}
    )
    whole = [line.strip() for line in readable_script(recipe).split("\n")]
    lines = [line for line in whole if line.startswith(("text = ", "print("))]
    given, said = Given(text), []
    found = {"re": re, "re2": re2, "tokenizer": given, "batch": given, "row": [], "json": json}
    exec("\n".join(lines), found | {"print": said.append})
    assert len(lines) == 3
    assert said == [json.dumps(postprocess(text, recipe.postprocess, stop))]
