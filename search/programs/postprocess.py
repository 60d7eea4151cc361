"""Deterministic steps that a program may apply to its output; each costs a byte of payload.

A step never raises and returns its input where it finds nothing to do.
"""

import re
from collections.abc import Callable, Sequence

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def _last_number(text: str) -> str:
    found = _NUMBER.findall(text)
    return found[-1] if found else text


def _last_word(text: str) -> str:
    words = text.split()
    return words[-1] if words else text


def _first_word(text: str) -> str:
    words = text.split()
    return words[0] if words else text


# The position in this table is the step's number in a payload: append, never reorder.
_STEPS: dict[str, Callable[[str], str]] = {
    "last_number": _last_number,
    "last_word": _last_word,
    "first_word": _first_word,
    "lower": str.lower,
    "no_final_period": lambda text: text.rstrip().removesuffix("."),
}
STEPS = tuple(_STEPS)


def postprocess(text: str, steps: Sequence[str]) -> str:
    """Return `text` after `steps`, applied from left to right.

    Raises:
        KeyError: if a step is none of `STEPS`.
    """
    for step in steps:
        text = _STEPS[step](text)
    return text
