"""The payload of a candidate: the bytes that stand for its program, and back.

    payload  = (nothing)                                 a candidate that adds nothing costs 0 bits
             | flags settings? text adapter?
    flags    = codec of the text (3 bits) | settings (1) | adapter (1) | codec of the adapter (3)
    settings = varint max_new_tokens (0: the task's limit), varint number of steps, a byte a step
    text     = varint length, the prompt as coded text
    adapter  = varint length, JSON header, the coded numbers up to the end (float16, little-endian)

Decoding a damaged payload raises `PayloadError` and nothing else; it allocates at most a few times
`MAX_TEXT_BYTES`. The code that applies a program is not part of these bytes.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from search.programs.postprocess import STEPS
from search.programs.text import CODECS, PayloadError, compress, decompress

_HAS_SETTINGS = 1 << 3
_HAS_ADAPTER = 1 << 4
_ADAPTER_CODEC_SHIFT = 5


@dataclass(frozen=True)
class AdapterFile:
    """The numbers of a trained adapter and what is needed to put them back into their places.

    Attributes:
        header: JSON object with the method, rank, modules and layers.
        values: float16, all tensors flattened in the order of their names, shape [num_parameters].
    """

    header: dict[str, Any]
    values: npt.NDArray[np.float16]


@dataclass(frozen=True)
class Content:
    """What a payload says."""

    prompt: str = ""
    max_new_tokens: int | None = None
    postprocess: tuple[str, ...] = ()
    adapter: AdapterFile | None = None


def encode(content: Content) -> tuple[bytes, dict[str, str]]:
    """Return the payload of `content` and the codec of each section.

    Raises:
        ValueError: if an adapter holds a number that is not finite in float16, or a section is
            longer than a payload may hold.
    """
    if content == Content():
        return b"", {}
    codec, text = compress(content.prompt.encode())
    flags, codecs, body = CODECS.index(codec), {"prompt": codec}, bytearray()
    if content.max_new_tokens is not None or content.postprocess:
        flags |= _HAS_SETTINGS
        body += _varint(content.max_new_tokens or 0) + _varint(len(content.postprocess))
        body += bytes(STEPS.index(step) for step in content.postprocess)
    body += _varint(len(text)) + text
    if content.adapter is not None:
        if not np.isfinite(content.adapter.values).all():
            raise ValueError("the adapter holds numbers that are not finite in float16")
        header = json.dumps(content.adapter.header, sort_keys=True, separators=(",", ":")).encode()
        numbers_codec, numbers = compress(content.adapter.values.astype("<f2").tobytes())
        flags |= _HAS_ADAPTER | CODECS.index(numbers_codec) << _ADAPTER_CODEC_SHIFT
        codecs["adapter"] = numbers_codec
        body += _varint(len(header)) + header + numbers
    return bytes([flags]) + bytes(body), codecs


def decode(payload: bytes) -> Content:
    """Return what `encode` was given.

    Raises:
        PayloadError: if the payload is truncated, damaged or of an unknown version.
    """
    if not payload:
        return Content()
    reader = _Reader(payload)
    flags = reader.take(1)[0]
    max_new_tokens: int | None = None
    steps: tuple[str, ...] = ()
    if flags & _HAS_SETTINGS:
        max_new_tokens = reader.varint() or None
        steps = tuple(_entry(STEPS, number) for number in reader.take(reader.varint()))
    text = decompress(_entry(CODECS, flags & 7), reader.take(reader.varint()))
    adapter = None
    if flags & _HAS_ADAPTER:
        header = _json_object(reader.take(reader.varint()))
        numbers = decompress(_entry(CODECS, flags >> _ADAPTER_CODEC_SHIFT), reader.rest())
        if len(numbers) % 2:
            raise PayloadError("the adapter section holds half a number")
        values = np.frombuffer(numbers, "<f2").astype(np.float16)
        if not np.isfinite(values).all():
            raise PayloadError("the adapter section holds numbers that are not finite")
        adapter = AdapterFile(header, values)
    elif reader.rest():
        raise PayloadError("bytes follow the end of the payload")
    try:
        prompt = text.decode()
    except UnicodeDecodeError as error:
        raise PayloadError(f"the prompt is not UTF-8: {error}") from error
    return Content(prompt, max_new_tokens, steps, adapter)


def _entry(table: tuple[str, ...], number: int) -> str:
    if number >= len(table):
        raise PayloadError(f"unknown code {number}, this version knows {len(table)}")
    return table[number]


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the adapter header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise PayloadError("the adapter header is not a JSON object")
    return header


def _varint(number: int) -> bytes:
    """Return seven bits a byte, the least significant first, the top bit meaning `more`."""
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    return bytes([*coded, number])


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> bytes:
        if length > len(self._data) - self._at:
            raise PayloadError("the payload ends in the middle of a section")
        self._at += length
        return self._data[self._at - length : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def varint(self) -> int:
        number = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise PayloadError("a length is longer than five bytes")
