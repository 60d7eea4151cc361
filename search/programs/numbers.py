"""The numbers of an adapter as bytes: one step for all, integers, the shortest coder that fits.

    section = step byte | scale bytes | range-coded integers      coders `laplace` and `gaussian`
            | step byte | base byte   | one integer in that base  coder `packed`
            | step byte | `kilobit.search.programs.reward_replay`        coder `replay`

Where each tensor has a step of its own, one byte per tensor precedes the section: the tensor's
addition to the step byte.

A number is `integer * 2 ** (step / 8 - 24)` in float32. A range coder has a scale byte for all rows
or one for each, whichever is shorter; a row whose scale byte is 0 is all 0 and none of it is coded,
which is how pruned layers and ranks are written. A scale byte s > 0 is a spread of
`2 ** (s / 16 - 4)` steps. The number of integers is not stored: it follows from
the shapes of the adapter.

Range coding is constriction's (Bamler 2022), whose models are integer tables of 24 bits. Its words
are cut to the fewest bytes that still decode, and these come from last to first: the bytes cut off
are the lowest of the last word, and zeros in front replace them. `decode_numbers` raises
`PayloadError` and nothing else, and allocates a few times what the shapes ask for.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import constriction
import numpy as np
import numpy.typing as npt
from pydantic import Field

from kilobit.search.programs.reward_replay import MAX_SIGNS, Replay
from kilobit.search.programs.text import PayloadError
from kilobit.search.settings import Config

Tensor = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]
Coder = Literal["packed", "laplace", "gaussian", "replay"]
Scales = Literal["one", "row"]

LARGEST = 2047
_LARGEST_BASE = 255
# Coding one integer of many digits takes time quadratic in their number.
MAX_PACKED = 4096
_MODELS = {
    "laplace": constriction.stream.model.QuantizedLaplace,
    "gaussian": constriction.stream.model.QuantizedGaussian,
}
MODEL_NAMES = {"laplace": "QuantizedLaplace", "gaussian": "QuantizedGaussian"}


class NumbersCode(Config):
    """Format of a numbers section: its coder, and the units of its scales and steps."""

    coder: Annotated[Coder, Field(description="coder of the integers")]
    scales: Annotated[Scales, Field(description="what has a scale byte of its own")] = "one"
    steps: Annotated[
        Literal["one", "factor", "tensor"],
        Field(description="what has a step of its own; a factor is every second tensor, A or B"),
    ] = "one"
    signs: Annotated[int, Field(ge=0, le=MAX_SIGNS, description="signs of a replay")] = 0

    def count_more(self, num_tensors: int) -> int:
        """Return the number of bytes for steps before the step byte of the section."""
        return {"one": 0, "factor": 1, "tensor": num_tensors}[self.steps]

    def step_codes(self, code: int, more: bytes, num_tensors: int) -> list[int]:
        """Return the step byte of each tensor, from that of the section and the bytes before."""
        if self.steps == "factor":
            return [code if i % 2 else more[0] for i in range(num_tensors)]
        return [code + extra for extra in more or bytes(num_tensors)]


def step_of(code: int) -> float:
    """Return the step that a step byte encodes."""
    return float(2.0 ** (code / 8 - 24))


def step_code(step: float) -> int:
    """Return the byte of the step nearest to `step`.

    Raises:
        ValueError: if `step` is not a positive number.
    """
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"a step is a positive number, not {step}")
    return min(255, max(0, round((math.log2(step) + 24) * 8)))


def quantise(tensors: Sequence[Tensor], step: float) -> tuple[int, list[Integers]]:
    """Return the step byte and the integers of `tensors`, each of shape [rows, columns].

    A step so small that an integer would exceed `LARGEST` is made larger.

    Raises:
        ValueError: if a number is not finite.
    """
    largest = max((float(np.abs(t).max()) for t in tensors if t.size), default=0.0)
    if not math.isfinite(largest) or not all(np.isfinite(t).all() for t in tensors):
        raise ValueError("the adapter holds numbers that are not finite")
    code = step_code(step)
    while code < 255 and largest > LARGEST * step_of(code):
        code += 1
    if largest > LARGEST * step_of(code):
        raise ValueError(f"the adapter holds a number that is too large: {largest:g}")
    return code, [np.rint(t / step_of(code)).astype(np.int32) for t in tensors]


def quantise_each(
    tensors: Sequence[Tensor], steps: Sequence[float]
) -> tuple[int, bytes, list[Integers]]:
    """Return the step byte, each tensor's addition to it, and its integers at its own step.

    Raises:
        ValueError: if a number is not finite.
    """
    each = [quantise([t], s) for t, s in zip(tensors, steps, strict=True)]
    lowest = min((code for code, _ in each), default=0)
    more = bytes(code - lowest for code, _ in each)
    return lowest, more, [integers for _, (integers,) in each]


def encode_numbers(
    code: int, integers: Sequence[Integers], choice: NumbersCode, more: bytes = b""
) -> bytes | None:
    """Return the section in the format of `choice`, None if that format can't hold it.

    Args:
        code: the step byte.
        integers: the tensors in steps.
        choice: the format.
        more: each tensor's addition to the step byte, where each has a step of its own; where
            factors have, the step byte of the first, `code` being that of the second.
    """
    assert len(more) == choice.count_more(len(integers))
    if choice.coder == "packed":
        packed = _pack(code, integers)
        return None if packed is None else more + packed
    groups = [row for tensor in integers for row in tensor]
    if choice.scales == "one":
        scales = [max(1, _scale_code(np.concatenate(groups), choice.coder))]
    else:
        scales = [_scale_code(group, choice.coder) for group in groups]
    words = _range_coded(groups, scales, choice)
    head = bytes([code, *scales])
    shapes = [(i.shape[0], i.shape[1]) for i in integers]

    def decodes(body: bytes) -> bool:
        try:
            found = _integers(head + body[::-1], shapes, choice)
        except PayloadError:
            return False
        return all(np.array_equal(a, b) for a, b in zip(found, integers, strict=True))

    body = shortest_body(words, decodes)
    assert decodes(body)
    return more + head + body[::-1]


def decode_numbers(
    data: bytes, shapes: Sequence[tuple[int, int]], choice: NumbersCode
) -> list[Tensor]:
    """Return the tensors that a section holds, each of its shape [rows, columns].

    Raises:
        PayloadError: if the section is too short, too long or not what a coder writes.
    """
    count = choice.count_more(len(shapes))
    more, data = data[:count], data[count:]
    integers = _integers(data, shapes, choice)
    if choice.coder in _MODELS:
        num_scales = count_scales(shapes, choice)
        scales, body = data[1 : 1 + num_scales], data[1 + num_scales :]
        groups = [row for tensor in integers for row in tensor]
        # A stream is cut until its last byte, which comes first here, is not 0.
        if body[:1] == b"\0" or len(body) > len(_range_coded(groups, scales, choice)):
            raise PayloadError("bytes follow the end of the numbers section")
    # In float32, as torch multiplies a tensor of integers by a number.
    return [
        i.astype(np.float32) * np.float32(step_of(code))
        for i, code in zip(integers, choice.step_codes(data[0], more, len(shapes)), strict=True)
    ]


def shortest_body(words: bytes, decodes: Callable[[bytes], bool]) -> bytes:
    """Return the shortest prefix of `words`, incremented by one or not, that decodes.

    A range decoder reads zeros past the end, so most of the last word is not needed.
    """
    best = words
    for length in range(len(words) - 1, max(-1, len(words) - 9), -1):
        kept = int.from_bytes(words[:length])
        tried = [n.to_bytes(length) for n in (kept, kept + 1) if n.bit_length() <= 8 * length]
        found = next((body for body in tried if decodes(body)), None)
        if found is None:
            break
        best = found
    return best


def _integers(
    data: bytes, shapes: Sequence[tuple[int, int]], choice: NumbersCode
) -> list[Integers]:
    if not data:
        raise PayloadError("the numbers section is empty")
    if choice.coder == "packed":
        return _unpack(data, shapes)
    if choice.coder == "replay":
        total = sum(rows * columns for rows, columns in shapes)
        return _shaped(Replay.read(data[1:], choice.signs, total).sums, shapes)
    try:
        found = [np.zeros(shape, np.int32) for shape in shapes]
    except (MemoryError, ValueError) as error:
        raise PayloadError(f"not enough memory for numbers of these shapes: {error}") from error
    groups = [row for tensor in found for row in tensor]
    num_scales = count_scales(shapes, choice)
    scales, body = data[1 : 1 + num_scales], data[1 + num_scales :]
    if len(scales) < num_scales:
        raise PayloadError("the numbers section ends within its scales")
    words = np.frombuffer(bytes(-len(body) % 4) + body, "<u4")[::-1].astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    for group, scale in zip(groups, _each(scales, groups), strict=True):
        if scale:
            try:
                group[:] = decoder.decode(_model(choice.coder, scale), len(group))
            except (AssertionError, ValueError) as error:
                raise PayloadError(f"the numbers section can't be decoded: {error}") from error
    return found


def _range_coded(groups: Sequence[Integers], scales: Sequence[int], choice: NumbersCode) -> bytes:
    """Return the full output of the coder, first byte first."""
    encoder = constriction.stream.queue.RangeEncoder()
    for group, scale in zip(groups, _each(scales, groups), strict=True):
        if scale:
            encoder.encode(np.ascontiguousarray(group), _model(choice.coder, scale))
    words: bytes = encoder.get_compressed().astype(">u4").tobytes()
    return words


def count_scales(shapes: Sequence[tuple[int, int]], choice: NumbersCode) -> int:
    """Return the number of scale bytes of a range-coded section."""
    return 1 if choice.scales == "one" else sum(rows for rows, _ in shapes)


def _each(scales: Sequence[int], groups: Sequence[Integers]) -> Sequence[int]:
    return scales if len(scales) == len(groups) else [scales[0]] * len(groups)


def _model(coder: str, scale: int) -> Any:
    return _MODELS[coder](-LARGEST, LARGEST, 0.0, 2.0 ** (scale / 16 - 4))


def _scale_code(group: Integers, coder: str) -> int:
    """Return the scale byte that codes `group` shortest; 0 if all its integers are 0."""
    sizes, counts = np.unique(np.abs(group), return_counts=True)
    if not sizes.any():
        return 0
    candidates = np.arange(1, 256)
    spread = 2.0 ** (candidates / 16 - 4)
    edges = (sizes[:, None] + np.array([-0.5, 0.5])[:, None, None]) / spread
    # Tails at distances from the middle, so that small differences don't cancel.
    if coder == "laplace":
        above = np.exp(-np.abs(edges)) / 2
    else:
        from scipy.special import erfc

        above = erfc(edges / math.sqrt(2)) / 2
    mass = above[0] - above[1]
    mass[sizes == 0] = 1 - 2 * above[1][sizes == 0]
    bits = -counts @ np.log2(np.maximum(mass, 2.0**-24))
    return int(candidates[bits.argmin()])


def _pack(code: int, integers: Sequence[Integers]) -> bytes | None:
    flat = np.concatenate([i.reshape(-1) for i in integers])
    if len(flat) > MAX_PACKED:
        return None
    base = 2 * int(np.abs(flat).max(initial=0)) + 1
    if base > _LARGEST_BASE:
        return None
    number = 0
    for digit in reversed(flat.tolist()):
        number = number * base + digit + base // 2
    return bytes([code, base]) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _unpack(data: bytes, shapes: Sequence[tuple[int, int]]) -> list[Integers]:
    if len(data) < 2 or data[1] % 2 == 0:
        raise PayloadError("a packed numbers section begins with a step and an odd base")
    base, total = data[1], sum(rows * columns for rows, columns in shapes)
    if len(data) - 2 > total or total > MAX_PACKED:
        raise PayloadError("the packed numbers section is longer than its numbers")
    number, digits = int.from_bytes(data[2:], "big"), []
    for _ in range(total):
        number, digit = divmod(number, base)
        digits.append(digit - base // 2)
    if number:
        raise PayloadError("bytes follow the end of the packed numbers")
    return _shaped(np.array(digits), shapes)


def _shaped(flat: npt.NDArray[np.int64], shapes: Sequence[tuple[int, int]]) -> list[Integers]:
    at, found = 0, []
    for rows, columns in shapes:
        part = flat[at : at + rows * columns].reshape(rows, columns)
        found.append(part.astype(np.int32))
        at += rows * columns
    return found
