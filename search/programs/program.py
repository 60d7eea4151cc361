"""A program: a recipe and a payload, and the two files that they become.

    payload = prompt section (num_bytes of the recipe) | numbers or examples section (the rest)

`program_bits` is eight times the size of program.py and payload.bin, nothing else. `decode` is
defensive: for any bytes it returns their contents or raises `PayloadError`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kilobit.search.programs.numbers import (
    MODEL_NAMES,
    Integers,
    NumbersCode,
    Tensor,
    count_scales,
    decode_numbers,
    encode_numbers,
)
from kilobit.search.programs.recipe import AdapterPart, PrintedPart, PromptPart, Recipe
from kilobit.search.programs.reward_replay import HEAD_BYTES
from kilobit.search.programs.script import script
from kilobit.search.programs.text import PayloadError, TextCodec, compress, decompress
from kilobit.search.programs.token_coder import Cache
from kilobit.search.settings import Length

TextDecoder = Callable[[bytes], str]


# What a recipe says of the chat template.
_WITHOUT_CHAT: Mapping[str, object] = {
    "chat": False,
    "turns": "",
    "template": {},
    "today": None,
    "opening": "",
    "thinking": None,
}


@dataclass(frozen=True)
class Program:
    """A program as it is written to disk."""

    recipe: Recipe
    script: bytes
    payload: bytes

    @property
    def payload_bits(self) -> int:
        """Return eight times the size of payload.bin."""
        return 8 * len(self.payload)

    @property
    def program_bits(self) -> int:
        """Return eight times the size of program.py and payload.bin together."""
        return 8 * (len(self.script) + len(self.payload))

    @property
    def template_bits(self) -> int:
        """Return eight times the bytes that the call of the chat template takes in program.py."""
        if not self.recipe.chat:
            return 0
        plain = _script_bytes(self.recipe.model_copy(update=_WITHOUT_CHAT).canonical())
        # Another version of the minifier may have written the script.
        return 8 * max(0, len(self.script) - plain)

    @property
    def digest(self) -> str:
        """Return the first 16 hex digits of SHA-256 over both files."""
        both = hashlib.sha256(self.script).digest() + hashlib.sha256(self.payload).digest()
        return hashlib.sha256(both).hexdigest()[:16]

    @property
    def codecs(self) -> dict[str, str]:
        """Return the codec of each section."""
        found: dict[str, str] = {}
        if self.recipe.prompt:
            found["prompt"] = self.recipe.prompt.codec
        if self.recipe.adapter:
            code = self.recipe.adapter.numbers
            ranged = code.coder in MODEL_NAMES
            found["adapter"] = f"{code.coder} {code.scales}" if ranged else code.coder
        if self.recipe.data:
            found["data"] = "model"
        return found

    @property
    def sections(self) -> dict[str, int]:
        """Return the size of each present section in bytes; the sum is the size of both files.

        `script` is program.py, without what the call of the chat template costs there, which is
        `template`; of payload.bin `prompt` is the text, `scales` are the steps, the
        base or the scales of an adapter's numbers, `numbers` the coded numbers, and `examples`
        training examples that the model learns from.
        """
        found = {"script": len(self.script)}
        if self.recipe.chat:
            found["template"] = self.template_bits // 8
            found["script"] -= found["template"]
        rest = len(self.payload)
        if self.recipe.prompt:
            found["prompt"] = min(rest, self.recipe.prompt.num_bytes)
            rest -= found["prompt"]
        if self.recipe.adapter:
            found["scales"] = min(rest, count_head(self.recipe.adapter))
            rest -= found["scales"]
        if rest:
            found["examples" if self.recipe.data else "numbers"] = rest
        return found


@dataclass(frozen=True)
class Decoded:
    """The contents of a payload: the text before the question, and the numbers of the adapter.

    `delta` says whether the numbers are differences from those that the adapter begins with. An
    adapter that has no part in the program, because it would change nothing, has no numbers.

    Examples are not included: `kilobit.evaluators.model.text_codec` decodes them, by learning from
    them.
    """

    prompt: str
    tensors: list[Tensor]
    delta: bool | None = None


def count_head(part: AdapterPart) -> int:
    """Return the number of bytes before the coded numbers: the steps, and the base or scales."""
    code = part.numbers
    heads = {"packed": 1, "replay": HEAD_BYTES}
    own_steps = code.count_more(len(part.shapes))
    return own_steps + 1 + (heads.get(code.coder) or count_scales(part.shapes, code))


def build(recipe: Recipe, payload: bytes) -> Program:
    """Return the program of a recipe and its payload."""
    return Program(recipe, script(recipe), payload)


def build_printing(constant: str | None, length: Length) -> Program:
    """Return the shortest program that prints one text for every input, without the model.

    Args:
        constant: the text; None prints the input.
        length: the length to minimise. The text is in program.py for `program`; for `payload` it
            is in payload.bin, so that the length of the payload counts it.
    """
    if constant is None:
        return build(_BARE.model_copy(update={"printed": PrintedPart(what="input")}), b"")
    if length == "program":
        part = PrintedPart(what="text", text=constant)
        return build(_BARE.model_copy(update={"printed": part}), b"")
    codec, section = choose_text(compress(constant.encode()), length, None)
    parts = {"printed": PrintedPart(what="prompt"), "prompt": text_part(codec, section)}
    return build(_BARE.model_copy(update=parts), section)


def decode(recipe: Recipe, payload: bytes, decode_here: TextDecoder | None = None) -> Decoded:
    """Return the contents of `payload`.

    Args:
        recipe: the recipe of the program.
        payload: the bytes of payload.bin.
        decode_here: decodes a text section that needs more than the payload: the base model that
            coded it, or the train split that its indices point into.

    Raises:
        PayloadError: if the payload is truncated, too long or damaged.
    """
    prompt = decode_text(recipe, payload, decode_here)
    rest = payload[recipe.prompt.num_bytes if recipe.prompt else 0 :]
    if recipe.data is not None:
        if -len(rest) % 4 != recipe.data.padding:
            raise PayloadError(f"{len(rest)} bytes are not an examples section of this program")
        return Decoded(prompt, [])
    if recipe.adapter is None:
        if rest:
            raise PayloadError(f"{len(rest)} bytes follow the end of the payload")
        return Decoded(prompt, [])
    part = recipe.adapter
    return Decoded(prompt, decode_numbers(rest, part.shapes, part.numbers), part.delta)


def decode_text(recipe: Recipe, payload: bytes, decode_here: TextDecoder | None = None) -> str:
    """Return the text before the question; the arguments and errors are those of `decode`."""
    if recipe.prompt is None:
        return ""
    num_bytes = recipe.prompt.num_bytes
    if len(payload) < num_bytes:
        raise PayloadError(f"the payload has {len(payload)} bytes, its prompt alone {num_bytes}")
    return _text(recipe.prompt, payload[:num_bytes], decode_here)


def _text(part: PromptPart, section: bytes, decode_here: TextDecoder | None) -> str:
    if part.codec == "model" or part.codec == "index":
        if decode_here is None:
            needed = {"model": "base model", "index": "train split"}[part.codec]
            raise PayloadError(f"the prompt can't be decoded without the {needed}")
        return decode_here(section)
    try:
        return decompress(part.codec, section).decode()
    except UnicodeDecodeError as error:
        raise PayloadError(f"the prompt is not UTF-8: {error}") from error


def text_part(
    codec: TextCodec,
    section: bytes,
    *,
    lead: str = "",
    answer: str = "",
    cache: Cache | None = "none",
) -> PromptPart:
    """Return the part of a recipe for a text section.

    Args:
        codec: its codec.
        section: its bytes.
        lead: for indices, the text before the first demonstration.
        answer: for indices, the template of an answer.
        cache: for a section that the model coded, what it keeps of earlier tokens.
    """
    if codec == "index":
        return PromptPart(codec=codec, num_bytes=len(section), lead=lead, answer=answer)
    if codec == "model":
        head = section[:4].hex()
        return PromptPart(codec=codec, num_bytes=len(section), head=head, cache=cache)
    return PromptPart(codec=codec, num_bytes=len(section))


def choose_text(
    coded: Mapping[TextCodec, bytes],
    length: Length,
    start_token: int | None,
    cache: Cache | None = "none",
) -> tuple[TextCodec, bytes]:
    """Return the codec of the shortest section, for `program` with its decoder, and the section.

    Args:
        coded: the text by each codec.
        length: the length to minimise.
        start_token: of the section that the model coded, if there is one.
        cache: what the model keeps of earlier tokens there.
    """

    def cost(codec: TextCodec) -> int:
        script_bytes = _text_cost(codec, start_token, cache) if length == "program" else 0
        return len(coded[codec]) + script_bytes

    best = min(coded, key=cost)
    return best, coded[best]


def may_be_shortest(codec: TextCodec, coded: Mapping[TextCodec, bytes], length: Length) -> bool:
    """Return whether `codec` could still be chosen, whatever its section will be."""
    if length == "payload":
        return True
    return _text_cost(codec, 0) < min(len(coded[c]) + _text_cost(c, None) for c in coded)


def choose_numbers(
    code: int,
    integers: Sequence[Integers],
    part: AdapterPart,
    length: Length,
    more: bytes = b"",
) -> tuple[NumbersCode, bytes]:
    """Return the format of the shortest section, for `program` with its decoder, and the section.

    Args:
        code: the step byte.
        integers: the quantised tensors.
        part: the adapter; of its `numbers` only the steps are used.
        length: the length to minimise.
        more: the bytes of further steps, as in `encode_numbers`.
    """
    ways = [way.model_copy(update={"steps": part.numbers.steps}) for way in WAYS]
    # Seeds are of nearly equal length, and a script takes long to make.
    part = part.model_copy(update={"seed": part.seed and _USUAL_SEED})

    def cost(way: NumbersCode, data: bytes) -> int:
        if length == "payload":
            return len(data)
        adapter = part.model_copy(update={"numbers": way})
        return len(data) + _script_bytes(_BARE.model_copy(update={"adapter": adapter}).canonical())

    coded = ((way, encode_numbers(code, integers, way, more)) for way in ways)
    found = [(way, data) for way, data in coded if data is not None]
    return min(found, key=lambda pair: cost(*pair))


WAYS = (
    NumbersCode(coder="packed"),
    *(
        NumbersCode(coder=coder, scales=scales)
        for coder in ("laplace", "gaussian")
        for scales in ("one", "row")
    ),
)
_BARE = Recipe(question="{input}", batch_size=1, max_new_tokens=1)
_USUAL_SEED = 4611686018427387904


@lru_cache(maxsize=64)
def _text_cost(codec: TextCodec, start_token: int | None, cache: Cache | None = "none") -> int:
    """Return the size in bytes of a minimal program.py that reads a text section of `codec`."""
    part = text_part(codec, bytes([0, 1, 0, 0]), cache=cache)
    return len(script(_BARE.model_copy(update={"prompt": part, "start_token": start_token})))


@lru_cache(maxsize=256)
def _script_bytes(recipe_json: str) -> int:
    return len(script(Recipe.model_validate_json(recipe_json)))
