"""Settings of a base model in a sweep file."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

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


def differing_parts(parts: Mapping[str, str], recorded: Mapping[str, str]) -> str:
    """Return the names of the parts that differ from recorded ones, as words of a sentence."""
    names = [name for name in parts if recorded.get(name) != parts[name]]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


class BaseModelConfig(Config):
    """A base model: a local folder or a hub id, never with code of its own."""

    regime: Annotated[Label, Field(description="label of its curve: random, pretrained, ...")]
    name: Annotated[Label | None, Field(description="unique name; the regime by default")] = None
    path: Annotated[
        LocalPath | None,
        Field(description="model folder, relative to the sweep file; or give `hub`"),
    ] = None
    hub: Annotated[
        str | None,
        Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", max_length=96, description="hub id, e.g. org/model"),
    ] = None
    revision: Annotated[str | None, Field(description="commit or tag of the hub model; pin it")] = (
        None
    )
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], Field(description="type of the weights")
    ] = "float32"
    device: Annotated[
        str,
        Field(
            pattern=r"^(cpu|cuda(:\d+)?|auto)$",
            description="cpu, cuda, cuda:N or auto (a GPU where there is one)",
        ),
    ] = "cpu"
    weights: Annotated[
        Literal["trained", "random"],
        Field(description="`random` initialises from the config with `seed` and reads no weights"),
    ] = "trained"
    seed: Annotated[int, Field(ge=0, lt=1 << 64, description="seed of random weights")] = 0
    enable_thinking: Annotated[
        bool | None,
        Field(description="thinking in the chat template on or off; null: its default"),
    ] = None
    thinking_tokens: Annotated[
        int | None,
        Field(ge=1, description="most tokens of the thinking; null: as many as of the answer"),
    ] = None
    thinking_marks: Annotated[
        tuple[str, str] | None,
        Field(description="texts before and after the thinking; null: those of the chat template"),
    ] = None
    today: Annotated[
        str | None,
        Field(
            pattern=r"^[^{}%#\n]{1,64}$",
            description="date, as a chat template is to see it that reads the clock and needs one",
        ),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either `path` (a local folder) or `hub` (a hub id)")
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
