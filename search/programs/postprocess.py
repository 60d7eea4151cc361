"""Deterministic steps that a program may apply to its output; each adds to its length.

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
from typing import Annotated

import re2
from pydantic import AfterValidator

_NUMBER = r"-?\d+(?:\.\d+)?"
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


_WITH_ARGUMENT: dict[str, Callable[[str], str]] = {"cut": _cut, "find": _find, "round": _round}
STEPS = (*_PLAIN, *(f"{name}:" for name in _WITH_ARGUMENT))


def step_source(step: str) -> str:
    """Return the Python expression over `text` of `step`.

    Raises:
        ValueError: if there is no such step or its argument does not fit.
    """
    if step in _PLAIN:
        return _PLAIN[step]
    name, sign, argument = step.partition(":")
    if not sign or name not in _WITH_ARGUMENT:
        raise ValueError(f"there is no step {step!r}; steps are {', '.join(STEPS)}")
    return _WITH_ARGUMENT[name](argument)


def _check_step(step: str) -> str:
    step_source(step)
    return step


PostprocessStep = Annotated[str, AfterValidator(_check_step)]


@lru_cache(maxsize=1024)
def _compiled(step: str) -> CodeType:
    return compile(step_source(step), f"<step {json.dumps(step)}>", "eval")


def postprocess(text: str, steps: Sequence[str]) -> str:
    """Return `text` after `steps`, applied from left to right.

    Raises:
        ValueError: if a step does not exist.
    """
    for step in steps:
        # Safe: the source is our own text around the repr of the step's argument.
        text = eval(_compiled(step), {"re": re, "re2": re2}, {"text": text})  # noqa: S307
    return text
