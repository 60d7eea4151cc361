"""Arguments of IFEval's instructions: a record's arguments in, an error for one that has no effect.

The harness exchanges an argument that is missing, zero, negative or otherwise out of range for a
random one, and the record would be scored by a rule that is not in it. So every argument of an
instruction has to be there and usable. The two official records that ask to count a sign, for which
the harness draws a letter, are the only exception.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

RELATIONS = ("less than", "at least")
# Letters that are none, by the key of the record.
_OFFICIAL_SIGNS = {1122: "#", 1129: "!"}


def _count(value: Any) -> bool:
    # Tables with empty cells turn whole numbers into floats.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return bool(whole and not isinstance(value, bool) and value >= 1)


def _place(value: Any) -> bool:
    return isinstance(value, int) and _count(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _pattern(value: Any) -> bool:
    """Return whether the harness can search for a text: it takes it as a regular expression."""
    if not _text(value):
        return False
    try:
        re.compile(value)
        re.compile(value.lower())
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _patterns(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_pattern, value))


def _letter(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[A-Za-z]", value) is not None


def _relation(value: Any) -> bool:
    return value in RELATIONS


_Kind = tuple[str, Callable[[Any], bool]]
_COUNT: _Kind = ("a whole number from 1", _count)
_TEXT: _Kind = ("a text that is not empty", _text)
_PATTERN: _Kind = ("a text that is not empty and is a regular expression", _pattern)
_PATTERNS: _Kind = ("a list of texts that are regular expressions", _patterns)
_RELATION: _Kind = (f"one of {RELATIONS}", _relation)
_KINDS: dict[str, _Kind] = {
    "capital_frequency": _COUNT,
    "capital_relation": _RELATION,
    "end_phrase": _TEXT,
    "first_word": _TEXT,
    "forbidden_words": _PATTERNS,
    "frequency": _COUNT,
    "keyword": _PATTERN,
    "keywords": _PATTERNS,
    "language": _TEXT,
    "let_frequency": _COUNT,
    "let_relation": _RELATION,
    "letter": ("a letter from a to z", _letter),
    "nth_paragraph": ("a whole number from 1", _place),
    "num_bullets": _COUNT,
    "num_highlights": _COUNT,
    "num_paragraphs": _COUNT,
    "num_placeholders": _COUNT,
    "num_sections": _COUNT,
    "num_sentences": _COUNT,
    "num_words": _COUNT,
    "postscript_marker": _PATTERN,
    "prompt_to_repeat": _TEXT,
    "relation": _RELATION,
    "section_spliter": _PATTERN,
}


def check_arguments(key: int, names: Collection[str], arguments: Mapping[str, Any]) -> None:
    """Check that an instruction has its arguments and that the harness uses each as it is.

    Args:
        key: key of the record.
        names: names of the instruction's arguments.
        arguments: its arguments in the record.

    Raises:
        ValueError: if one is missing, unknown, of the wrong type or out of range.
    """
    for name in arguments:
        if name not in names:
            raise ValueError(f"there is no argument {name!r}; arguments are {sorted(names)}")
    for name in names:
        needed, fits = _KINDS[name]
        if name not in arguments:
            raise ValueError(f"{name} is missing: it must be {needed}")
        value = arguments[name]
        official = name == "letter" and value == _OFFICIAL_SIGNS.get(key)
        if not fits(value) and not official:
            raise ValueError(f"{name} must be {needed}, found {value!r:.60}")
    if arguments.get("nth_paragraph", 0) > arguments.get("num_paragraphs", 0):
        raise ValueError("nth_paragraph must not be more than num_paragraphs")
