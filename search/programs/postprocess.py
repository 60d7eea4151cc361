"""Deterministic steps that a program may apply to its output; each adds to its length.

Steps see the output before its first stop string. A program without steps prints the stop string
too, and the task cuts it (`kilobit.search.task.Task.cut`).

A step is a name, or a name and its argument: `cut:STOP`, `find:PATTERN`, `round:DIGITS`. It is one
Python expression over `text`; program.py holds that expression and the search evaluates the same
one, so the two can't differ. No step raises, and one that finds nothing returns its input. Patterns
run in RE2, whose time is linear in the text whatever the pattern.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import CodeType
from typing import Annotated, Final

import re2
from pydantic import AfterValidator

# How steps work: by rule 1 they saw the stop string too and knew no grammar of numbers. A program
# keeps the rule that it was made by.
RULE: Final = 2
# Parts of the grammar of numbers (docs/tasks.md), which the metric `number` uses too. The steps'
# pattern is in program.py, so its characters count: it is short and accepts more than the metric.
DIGITS = "(?:\\d{1,3}(?:[,\xa0\u2009\u202f]\\d{3})+(?!\\d)|\\d+)"
POWER_OR_FRACTION = "(?:[/eE][-\u2212+]?\\d+)?"
# A sign follows no letter and no digit, and may stand before a currency sign. A decimal point that
# begins a number follows no letter, no digit and no other point.
_NUMBER = f"(?:\\B[-\u2212+][^\\w\\s]?)?(?:\\B(?<!\\.)\\.)?{DIGITS}(?:\\.\\d+)?{POWER_OR_FRACTION}"
_PLAIN = {
    "last_number": f"(re.findall({_NUMBER!r}, text) or [text])[-1]",
    "first_number": f"(re.findall({_NUMBER!r}, text) or [text])[0]",
    "last_word": "(text.split() or [text])[-1]",
    "first_word": "(text.split() or [text])[0]",
    "lower": "text.lower()",
    "upper": "text.upper()",
    "no_final_period": "text.rstrip().removesuffix('.')",
}


def _cut(argument: str) -> str:
    if not argument:
        raise ValueError("cut: needs the text to cut at, e.g. cut:\\n")
    return f"text.split({argument!r})[0]"


def _find(argument: str) -> str:
    try:
        pattern = re2.compile(argument)
    except re2.error as error:
        raise ValueError(f"find: {argument!r} is not a pattern that RE2 takes: {error}") from error
    group = 1 if pattern.groups else 0
    return f"(found := re2.search({argument!r}, text)) and found[{group}] or text"


def _round(argument: str) -> str:
    if not re.fullmatch(r"[0-9]", argument):
        raise ValueError(f"round: needs a number of digits from 0 to 9, not {argument!r}")
    number = r"-?\d+\.\d+"
    return f"re.sub({number!r}, lambda found: f'{{float(found[0]):.{argument}f}}', text)"


# The numbers of programs that were made before the grammar.
_FIRST_NUMBER = "-?\\d+(?:\\.\\d+)?"
_WITH_ARGUMENT: dict[str, Callable[[str], str]] = {"cut": _cut, "find": _find, "round": _round}
STEPS = (*_PLAIN, *(f"{name}:" for name in _WITH_ARGUMENT))


def step_source(step: str, rule: int = RULE) -> str:
    """Return the Python expression over `text` of `step`.

    Args:
        step: the step.
        rule: see `RULE`.

    Raises:
        ValueError: if there is no such step or its argument does not fit.
    """
    if step in _PLAIN:
        source = _PLAIN[step]
        return source.replace(repr(_NUMBER), repr(_FIRST_NUMBER)) if rule == 1 else source
    name, sign, argument = step.partition(":")
    if not sign or name not in _WITH_ARGUMENT:
        raise ValueError(f"there is no step {step!r}; steps are {', '.join(STEPS)}")
    return _WITH_ARGUMENT[name](argument)


def cut(text: str, stop: Sequence[str]) -> str:
    """Return `text` before the first place where one of the strings `stop` begins."""
    ends = [text.find(one) for one in stop]
    return text[: min((end for end in ends if end >= 0), default=len(text))]


def cut_source(text: str, stop: Sequence[str]) -> str:
    """Return the Python expression that cuts the value of the expression `text`; see `cut`."""
    if len(stop) < 2:
        return text + "".join(f".split({one!r})[0]" for one in stop)
    # `re.escape` would also escape white space, which needs no backslash here.
    either = "|".join(re.sub(r"([][.^$*+?{}\\|()])", r"\\\1", one) for one in stop)
    return f"re.split({either!r}, {text})[0]"


def _check_step(step: str) -> str:
    step_source(step)
    return step


PostprocessStep = Annotated[str, AfterValidator(_check_step)]


@lru_cache(maxsize=1024)
def _compiled(step: str) -> CodeType:
    return compile(step_source(step), f"<step {json.dumps(step)}>", "eval")


def postprocess(text: str, steps: Sequence[str], stop: Sequence[str] = ()) -> str:
    """Return the text that a program prints for a generated one.

    Args:
        text: the generated text; without steps it is printed as it is.
        steps: applied from left to right to the text before its first stop string.
        stop: the strings that end an output.

    Raises:
        ValueError: if a step does not exist.
    """
    if steps:
        text = cut(text, stop)
    for step in steps:
        # Safe: the source is our own text around the repr of the step's argument.
        text = eval(_compiled(step), {"re": re, "re2": re2}, {"text": text})  # noqa: S307
    return text
