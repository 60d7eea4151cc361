"""Base class of every typed part of a sweep file: unknown keys are errors, values don't change.

The error for what a user gave, a library's error in words, and commands that a message tells the
user to copy, are here too.
"""

import re
import shlex
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
)

Length = Literal["program", "payload"]
"""A length that a program is made short by: of both files, or of payload.bin alone."""
Ruler = Literal["program", "payload", "net"]
"""A length that programs are compared by: one of the two, or both files less the bare question."""


def _local(path: Path) -> Path:
    if path.parts[:1] and path.parts[0].endswith(":"):
        raise ValueError(
            "a local path is needed, not a URL: download it first, or use `hub` for a hub model"
        )
    return path


LocalPath = Annotated[Path, AfterValidator(_local)]


class Config(BaseModel):
    """A part of the sweep file; unknown keys are errors."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, allow_inf_nan=False)


class InputError(ValueError):
    """Error for a sweep file, or something it names, that can't be used."""


# Names of Python's classes before a message.
_CLASSES = re.compile(r"\b(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Warning): ")


def reason_of(error: BaseException) -> str:
    """Return the first line of a library's error, without the names of Python's classes.

    The second line is added where the first ends in a colon. An error without a message is told by
    the words of its class.
    """
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    if not lines:
        return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    text = _CLASSES.sub("", " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]))
    return f"{text} is missing" if isinstance(error, KeyError) else text


def to_copy(*words: object, address: str | None = None) -> str:
    """Return a command of ours, given by the words after `kilobit`, quoted for a shell.

    Args:
        words: the command and its arguments.
        address: of the cluster that the command is to use, None without one.
    """
    at = ("--address", address) if address else ()
    return shlex.join(map(str, ("kilobit", *words, *at)))


def is_address(text: str) -> bool:
    """Return whether a text is the address of a server, with http:// or https://."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and text.isprintable()
            and " " not in text
        )
    except ValueError:
        return False
