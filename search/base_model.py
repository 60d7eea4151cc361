"""Settings of a base model in a sweep file."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kilobit.search.settings import Config, LocalPath


def _label(text: str) -> str:
    # Labels become parts of file names.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ValueError(
            "a label begins with a letter or digit and has at most 64 letters, digits, points, "
            "dashes and underscores"
        )
    return text


Label = Annotated[str, AfterValidator(_label)]
Quantization = Literal["nf4", "int8"]


def digest_of(content: Any) -> str:
    """Return a digest of what JSON can hold, as the parts of a machine by name: 16 hex digits."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def differing_parts(parts: Mapping[str, str], recorded: Mapping[str, str]) -> str:
    """Return the names of the parts that differ from recorded ones, as words of a sentence."""
    names = [name for name in parts if recorded.get(name) != parts[name]]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def check_same(whose: str, now: Mapping[str, str], recorded: Mapping[str, str], what: str) -> None:
    """Check that the recorded parts of a machine or of data are what they are now.

    Args:
        whose: begins the message, as "task: the".
        now: the parts of now.
        recorded: those of an earlier attempt at the run, which may have known fewer.
        what: is to be restored where they differ.

    Raises:
        ValueError: naming what has changed.
    """
    changed = differing_parts(recorded, now)
    if changed:
        raise ValueError(
            f"{whose} {changed} changed since the run began: its scores would not be "
            f"comparable. Restore the {what}, or begin a new run"
        )


class BaseModelConfig(Config):
    """A base model: a local folder or a hub id, never with code of its own."""

    regime: Label
    """label of its curve: random, pretrained, ..."""
    name: Label | None = None
    """unique name; the regime by default"""
    path: LocalPath | None = None
    """model folder, relative to the sweep file; or give `hub`"""
    hub: str | None = Field(default=None, pattern=r"^[\w.-]+(/[\w.-]+)?$", max_length=96)
    """hub id, e.g. org/model"""
    revision: str | None = None
    """commit or tag of the hub model; pin it"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """type of the weights; with `quantization`, of all others and of what is computed"""
    quantization: Quantization | None = None
    """weights of linear modules in 4 (`nf4`) or 8 bits (`int8`), by bitsandbytes; on one rank"""
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?|auto)$")
    """cpu, cuda, cuda:N or auto (a GPU where there is one)"""
    weights: Literal["trained", "random"] = "trained"
    """`random` initialises from the config with `seed` and reads no weights"""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    """seed of random weights"""
    enable_thinking: bool | None = None
    """thinking in the chat template on or off; null: its default"""
    thinking_tokens: int | None = Field(default=None, ge=1)
    """most tokens of the thinking; null: as many as of the answer"""
    thinking_marks: tuple[str, str] | None = None
    """texts before and after the thinking; null: those of the chat template"""
    today: str | None = Field(default=None, pattern=r"^[^{}%#\n]{1,64}$")
    """date, as a chat template is to see it that reads the clock and needs one"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either `path` (a local folder) or `hub` (a hub id)")
        if self.revision is not None and not re.fullmatch(r"\w(?!.*\.\.)[\w./+-]*", self.revision):
            raise ValueError("`revision` is a commit, tag or branch, without ..")
        if self.path is not None and self.revision is not None:
            raise ValueError("`revision` belongs to `hub`; a local folder has none")
        if self.enable_thinking is False and (self.thinking_tokens or self.thinking_marks):
            raise ValueError("`thinking_tokens` and `thinking_marks` need thinking to be on")
        if self.thinking_marks is not None and not self.thinking_marks[1].strip():
            raise ValueError("`thinking_marks` needs a text after the thinking")
        if self.weights == "trained" and self.seed:
            raise ValueError("`seed` has no effect with trained weights")
        return self

    @property
    def label(self) -> str:
        """Return the unique name of the model in this run."""
        return self.name or self.regime
