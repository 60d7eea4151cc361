"""A recipe: everything that program.py is generated from; its canonical JSON is in the manifest.

The contents of a program (text, numbers and their scales) are in payload.bin, its structure is in
the recipe. Both count towards the length, because the recipe's values are written into program.py.
"""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kilobit.search.adapter_methods import METHODS, AdapterSpec, Draw, MethodName
from kilobit.search.base_model import Quantization
from kilobit.search.programs.numbers import NumbersCode
from kilobit.search.programs.text import TextCodec
from kilobit.search.programs.token_coder import Cache
from kilobit.search.settings import Config
from kilobit.search.task import ChoicePart

FORMAT_VERSION = 1


class PromptPart(Config):
    """The text section: the first `num_bytes` of the payload.

    Attributes:
        codec: the codec of the section.
        num_bytes: length of the section.
        head: its first four bytes in hexadecimal, for a section that the model coded: they hold
            the number of tokens and the checksum, which program.py has as numbers.
        cache: for such a section, what the model keeps of the tokens before the one that it reads;
            None in programs from before there was a choice.
        lead: for demonstrations named by index, the text before the first one.
        answer: for demonstrations named by index, the template of an answer.
    """

    codec: TextCodec
    num_bytes: Annotated[int, Field(ge=1)]
    head: Annotated[str | None, Field(pattern=r"^([0-9a-f]{2}){1,4}$")] = None
    cache: Cache | None = None
    lead: str = ""
    answer: str = ""

    def section_head(self) -> bytes:
        """Return the section with zeros after its head."""
        return bytes.fromhex(self.head or "").ljust(self.num_bytes, b"\0")


class NoisePart(Config):
    """Directions of change that are drawn from noise (`kilobit.search.streams`).

    The weights are those whose names `pattern` finds, in the model's order. The numbers are in the
    order of the draws.

    Attributes:
        draws: seeds of the noise.
        size: of `coordinates`: weights for each draw, each a pair of noise words of counter 0: the
            weight matrix, and the place in it, both modulo how many there are.
        rank: of `seeds`: rank of the product of two factors of signs, the left one first, which is
            added to a weight matrix; the counter is the matrix's place in the order.
        targets: names of modules, as PEFT takes them.
        layers: numbers of layers; None for all.
    """

    draws: Annotated[tuple[Draw, ...], Field(min_length=1)]
    size: Annotated[int | None, Field(ge=1)] = None
    rank: Annotated[int | None, Field(ge=1)] = None
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    layers: Annotated[tuple[int, ...] | None, Field(min_length=1)] = None

    @property
    def pattern(self) -> str:
        """Return the regular expression that finds a changed weight's name."""
        return weight_pattern(self.targets, self.layers)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.size is None) == (self.rank is None):
            raise ValueError("noise has either a size or a rank")
        return self


def weight_pattern(targets: Sequence[str], layers: Sequence[int] | None = None) -> str:
    """Return the regular expression of the names of the weights of modules in some layers."""
    module = "|".join(map(re.escape, targets))
    if layers is None:
        return rf"(^|\.)({module})\.weight$"
    # The first number in a name is that of the layer; a later one may be that of an expert.
    return rf"^(?=\D*\.({'|'.join(map(str, layers))})\.)(.*\.)?({module})\.weight$"


def noise_part(spec: AdapterSpec) -> NoisePart | None:
    """Return the directions of an adapter, None if its method draws none."""
    if spec.traits.place != "noise":
        return None
    return NoisePart(
        draws=spec.draws or (),
        size=spec.size,
        rank=spec.rank,
        targets=spec.target_modules or (),
        layers=spec.layers,
    )


class AdapterPart(Config):
    """An adapter: how its parameters are added to the base model, and its numbers put into them.

    Attributes:
        method: one of `kilobit.search.adapter_methods.METHODS`.
        config: name of PEFT's configuration class; None if PEFT builds nothing.
        arguments: arguments of that class.
        targets: parts of parameter names, for `weights`.
        noise: directions of change, for methods that draw them.
        shapes: rows and columns of each tensor of numbers, in the order of the model's parameters.
        numbers: the format of the numbers.
        delta: the numbers are added to the present weights instead of replacing them.
        seed: of the present weights, where the numbers of another method would replace them.
        factor_sum: sum over the factors of the base model's weights, where the method uses any; it
            detects a machine that factors differently.
    """

    method: MethodName
    config: str | None = None
    arguments: Annotated[dict[str, Any], Field(default_factory=dict)]
    targets: tuple[str, ...] = ()
    noise: NoisePart | None = None
    shapes: tuple[tuple[int, int], ...]
    numbers: NumbersCode
    delta: bool = False
    seed: Annotated[int | None, Field(ge=0, lt=1 << 63)] = None
    factor_sum: float | None = None

    @model_validator(mode="after")
    def _noise_of_its_methods(self) -> Self:
        noise, field = self.noise, {"coordinates": "size", "seeds": "rank"}.get(self.method)
        found = METHODS[self.method].place == "noise"
        if found != (noise is not None) or (noise and field and getattr(noise, field) is None):
            raise ValueError(f"{self.method}: its noise is missing, or not of its kind")
        return self


class LearningRule(Config):
    """Settings by which a model learns from examples while it codes them; see `script`.

    Attributes:
        arguments: of PEFT's LoraConfig; its numbers are drawn after `torch.manual_seed(0)`.
        num_examples: number of coded examples, which are coded in the order of learning.
        start_token: the token before each example, where coding begins.
        end_token: the token that ends an example.
        end_count: an example ends at this occurrence of `end_token`, the start token counted too.
        answer_tokens: number of last tokens that are learned after the first round.
        steps: number of steps that were taken.
        full_steps: number of steps after which the learning rate would be 0.
        batch_size: examples of a step, in order, beginning again after the last.
        learning_rate: learning rate of the first step.
        momentum: fraction of a gradient that is kept for the next step.
        cache: what the model keeps of the tokens before the one that it reads while it codes.
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
    cache: Cache = "none"


class DataPart(LearningRule):
    """The examples section, the rest of the payload, and the adapter learned from it.

    Attributes:
        padding: zero bytes before the section that fill its first word.
        checksum: CRC-32 over the adapter's numbers after every step, one after the other.
    """

    padding: Annotated[int, Field(ge=0, le=3)]
    checksum: Annotated[int, Field(ge=0, lt=1 << 32)]


class ThinkingPart(Config):
    """Thinking before an answer: a generation of its own, which is not printed.

    Attributes:
        mark: text at which it ends.
        close: text that is put after it, before the answer.
        tokens: most tokens of it.
    """

    mark: Annotated[str, Field(min_length=1)]
    close: str
    tokens: Annotated[int, Field(ge=1)]

    def joined(self, asked: str, thought: str) -> str:
        """Return the text that the answer continues: question, thinking and its end."""
        return asked + thought.split(self.mark)[0] + self.close


class PrintedPart(Config):
    """Output of a program that runs without the model.

    Attributes:
        what: this part's `text`, the text in the `prompt` section, or the `input` itself.
        text: a constant that program.py contains.
    """

    what: Literal["text", "prompt", "input"]
    text: str = ""

    def output(self, prompt: str, asked: str) -> str:
        """Return the output for the input `asked`, given the text of the prompt section."""
        return {"text": self.text, "prompt": prompt, "input": asked}[self.what]


class GenerationPart(Config):
    """Options of greedy generation, all others being those of the library.

    Attributes:
        end_tokens: tokens at which a row ends.
        pad_token: token that follows the end of a row.
    """

    end_tokens: tuple[int, ...]
    pad_token: int


class Recipe(Config):
    """The steps of a program, in the order in which it runs them."""

    version: Literal[1] = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Annotated[
        Quantization | None, Field(description="how linear modules are quantised")
    ] = None
    device: Literal["cpu", "cuda"] = "cpu"
    spread: Annotated[
        bool, Field(description="the model is loaded over all GPUs that the program finds")
    ] = False
    pad_with_end: Annotated[bool, Field(description="the tokenizer has no padding token")] = False
    special_tokens: Annotated[bool, Field(description="the tokenizer's own start token")] = True
    prompt: PromptPart | None = None
    start_token: Annotated[int | None, Field(description="where the model begins to code")] = None
    adapter: AdapterPart | None = None
    data: DataPart | None = None
    chat: Annotated[bool, Field(description="the question goes into the chat template")] = False
    turns: Annotated[
        str,
        Field(description="text between the prompt's turns; empty: it is in the question's turn"),
    ] = ""
    template: Annotated[dict[str, bool], Field(description="arguments of the template")] = {}  # noqa: RUF012 - pydantic copies it
    today: Annotated[str | None, Field(description="what the template's clock says")] = None
    opening: Annotated[str, Field(description="text after the rendered template")] = ""
    thinking: ThinkingPart | None = None
    generation: Annotated[
        GenerationPart | None, Field(description="in place of the model's own options")
    ] = None
    printed: Annotated[
        PrintedPart | None, Field(description="the program runs without the model")
    ] = None
    question: str
    batch_size: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    stop: tuple[str, ...] = ()
    choice: Annotated[
        ChoicePart | None, Field(description="an answer is chosen, not generated")
    ] = None
    postprocess: tuple[str, ...] = ()
    steps_rule: Annotated[
        Literal[1, 2],
        Field(description="how steps work; see `kilobit.search.programs.postprocess`"),
    ] = 1

    def canonical(self) -> str:
        """Return the canonical JSON: sorted keys, no white space, no defaults."""
        spec = self.model_dump(mode="json", exclude_defaults=True) | {"version": self.version}
        return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
