"""A recipe: everything that program.py is generated from; its canonical JSON is in the manifest.

What a program has of its own (text, numbers and their scales) is in payload.bin, what shapes it is
in the recipe. Both are counted, because the recipe's values stand in program.py.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from kilobit.search.adapter_methods import MethodName
from kilobit.search.programs.numbers import NumbersCode
from kilobit.search.programs.text import TextCodec
from kilobit.search.settings import Config

FORMAT_VERSION = 1


class PromptPart(Config):
    """The text section: the first `num_bytes` of the payload.

    Attributes:
        codec: how it is written.
        num_bytes: its length.
        head: its first four bytes in hexadecimal, for a section that the model coded: they hold
            the number of tokens and the checksum, which program.py has as numbers.
        lead: for demonstrations named by index, the text before the first.
        answer: for these, the template of an answer.
    """

    codec: TextCodec
    num_bytes: Annotated[int, Field(ge=1)]
    head: Annotated[str | None, Field(pattern=r"^([0-9a-f]{2}){1,4}$")] = None

    lead: str = ""
    answer: str = ""

    def section_head(self) -> bytes:
        """Return the section with zeros after its head."""
        return bytes.fromhex(self.head or "").ljust(self.num_bytes, b"\0")


class AdapterPart(Config):
    """An adapter: how the base model is given its places, and how the numbers come into them.

    Attributes:
        method: one of `kilobit.search.adapter_methods.METHODS`.
        config: name of PEFT's configuration class; none for `weights`.
        arguments: of that class.
        targets: parts of parameter names, for `weights`.
        shapes: rows and columns of each tensor of numbers, in the order of the model's parameters.
        numbers: how they are written.
        delta: they are added to what is there, instead of replacing it.
        factor_sum: sum over the factors of the frozen weights, where the method uses any; it tells
            when another machine factors differently.
    """

    method: MethodName
    config: str | None = None
    arguments: Annotated[dict[str, Any], Field(default_factory=dict)]
    targets: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int], ...]
    numbers: NumbersCode
    delta: bool = False
    factor_sum: float | None = None


class LearningRule(Config):
    """How a model learns from examples while it codes them: `script` says it.

    Attributes:
        arguments: of PEFT's LoraConfig; its numbers are drawn after `torch.manual_seed(0)`.
        num_examples: how many are coded, the first as the first.
        start_token: where the model begins to code each.
        end_token: an example ends with it,
        end_count: where it stands for the `end_count`th time, the start token counted too.
        answer_tokens: after the first round only so many last tokens are learned.
        steps: how many were taken.
        full_steps: after how many the learning rate would be 0.
        batch_size: examples of a step, in order, round and round.
        learning_rate: of the first step.
        momentum: what is left of a gradient for the next step.
    """

    arguments: dict[str, Any]
    num_examples: Annotated[int, Field(ge=1)]
    start_token: Annotated[int, Field(ge=0)]
    end_token: Annotated[int, Field(ge=0)]
    end_count: Annotated[int, Field(ge=1)]
    answer_tokens: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    full_steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class DataPart(LearningRule):
    """The examples section, the rest of the payload, and the adapter that comes of it.

    Attributes:
        padding: zero bytes before the section that fill its first word.
        checksum: CRC-32 over the adapter's numbers after every step, one after the other.
    """

    padding: Annotated[int, Field(ge=0, le=3)]
    checksum: Annotated[int, Field(ge=0, lt=1 << 32)]


class Recipe(Config):
    """What a program does, in the order in which it does it."""

    version: Literal[1] = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    pad_with_end: Annotated[bool, Field(description="the tokenizer has no padding token")] = False
    special_tokens: Annotated[bool, Field(description="the tokenizer's own start token")] = True
    prompt: PromptPart | None = None
    start_token: Annotated[int | None, Field(description="where the model begins to code")] = None
    adapter: AdapterPart | None = None
    data: DataPart | None = None
    chat: Annotated[bool, Field(description="the question goes into the chat template")] = False
    question: str
    batch_size: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    stop: tuple[str, ...] = ()
    postprocess: tuple[str, ...] = ()

    def canonical(self) -> str:
        """Return the canonical JSON: sorted keys, no white space, no defaults."""
        spec = self.model_dump(mode="json", exclude_defaults=True) | {"version": self.version}
        return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
