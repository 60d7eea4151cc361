import re

import pytest
import re2
from hypothesis import example, given
from hypothesis import strategies as st

from kilobit.search.programs.postprocess import STEPS, postprocess, step_source

ARGUMENTS = {
    "cut:": ("\n", ".", "'\"", "\\", "ä{x}", "#"),
    "find:": (r"\d+", r"(\w+) is (\w+)?", r"^\s*$", "x*", r"a'\"b|(c)", r"\pL+$"),
    "round:": ("0", "2", "9"),
}
EVERY = [
    step + argument
    for step in STEPS
    for argument in ARGUMENTS.get(step, ("",) if not step.endswith(":") else ())
]
# What a model prints, and what it should not.
TEXTS = st.text(max_size=40) | st.text("-.0123456789 '\"\\\n{}abcxä", max_size=40)


@pytest.mark.parametrize(
    ("steps", "text", "result"),
    [
        (("last_number",), "I had 12 and now 7.5 apples", "7.5"),
        (("last_number",), "from 3 to -4", "-4"),
        (("last_number",), "none", "none"),
        (("first_number",), "from 3 to -4", "3"),
        (("last_word",), "it is red", "red"),
        (("last_word",), "  ", "  "),
        (("first_word", "lower"), "YES indeed", "yes"),
        (("upper",), "straße", "STRASSE"),
        (("no_final_period",), "Done. ", "Done"),
        (("cut:\n",), "one\ntwo\nthree", "one"),
        (("cut:.",), "no end", "no end"),
        ((r"find:(\d+) apples",), "3 pears, 4 apples", "4"),
        (("find:[0-9]+",), "3 pears, 4 apples", "3"),
        (("find:x",), "none", "none"),
        (("find:(x)?none",), "none", "none"),
        (("round:1",), "about 3.14159 and -2.05, not 7", "about 3.1 and -2.0, not 7"),
        (("round:0", "last_number"), "it is 2.5 or 3.7", "4"),
        ((), " as it is ", " as it is "),
    ],
)
def test_postprocessing(steps: tuple[str, ...], text: str, result: str) -> None:
    assert postprocess(text, steps) == result


@pytest.mark.parametrize("step", EVERY)
@given(TEXTS)
@example("")
@example("1" * 400 + ".5")
@example("٣.١٤ \x00 \U0001f600 \u2028")
def test_no_step_raises_and_the_source_does_the_same(step: str, text: str) -> None:
    # The very assignment that stands in program.py, at the top level of a module.
    module = {"text": text, "re": re, "re2": re2}
    exec(f"text = {step_source(step)}", module)
    assert module["text"] == postprocess(text, (step,))


@given(st.lists(st.sampled_from(EVERY), max_size=5), TEXTS)
def test_steps_apply_from_left_to_right(steps: list[str], text: str) -> None:
    one_by_one = text
    for step in steps:
        one_by_one = postprocess(one_by_one, (step,))
    assert postprocess(text, steps) == one_by_one


@given(st.text(min_size=1, max_size=8), st.text(max_size=20))
def test_any_text_can_be_cut_at(stop: str, text: str) -> None:
    assert postprocess(text + stop + "x", (f"cut:{stop}",)) == (text + stop).split(stop)[0]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("shout", "there is no step 'shout'; steps are last_number, "),
        ("cut", "there is no step 'cut'"),
        ("cut:", "needs the text to cut at"),
        ("find:(", "is not a pattern that RE2 takes"),
        (r"find:(a)\1", "is not a pattern that RE2 takes"),
        ("round:x", "needs a number of digits from 0 to 9"),
        ("round:12", "needs a number of digits from 0 to 9"),
        ("lower:x", "there is no step 'lower:x'"),
    ],
)
def test_a_step_that_there_is_not_is_refused(step: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        step_source(step)


def test_a_pattern_takes_linear_time() -> None:
    # With backtracking this takes longer than the universe has been there.
    assert postprocess("a" * 5000 + "!", ("find:(a*)*b",)) == "a" * 5000 + "!"
