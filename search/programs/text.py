"""General-purpose codecs for short texts; the caller chooses the shortest.

Frames carry no magic number, checksum or size: the payload around them knows their length.
`decompress` is bounded: it returns at most `MAX_TEXT_BYTES` or raises `PayloadError`.
"""

import lzma
import zlib
from collections.abc import Callable
from typing import Literal

import brotli
import zstandard

MAX_TEXT_BYTES = 1 << 24


class PayloadError(ValueError):
    """A payload that can't be decoded; the message says what is wrong with it."""


def _deflate(data: bytes) -> bytes:
    best = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return best.compress(data) + best.flush()


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj(-15)
    text = stream.decompress(data, MAX_TEXT_BYTES + 1)
    if not stream.eof or stream.unused_data:
        raise PayloadError("the deflate stream does not end where the payload does")
    return text


def _zstd(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        22,
        source_size=len(data),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_checksum=False,
        write_content_size=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _unzstd(data: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor(
        format=zstandard.FORMAT_ZSTD1_MAGICLESS, max_window_size=1 << 27
    )
    # The reader limits the expansion of a small frame; only the object below reports its end.
    text = decompressor.stream_reader(data).read(MAX_TEXT_BYTES + 1)
    if len(text) > MAX_TEXT_BYTES:
        return text
    reader = decompressor.decompressobj()
    reader.decompress(data)
    if not reader.eof or reader.unused_data:
        raise PayloadError("the zstd frame does not end where the payload does")
    return text


def _brotli(data: bytes) -> bytes:
    modes = (brotli.MODE_TEXT, brotli.MODE_GENERIC)
    return min((bytes(brotli.compress(data, mode=m, quality=11)) for m in modes), key=len)


def _unbrotli(data: bytes) -> bytes:
    stream = brotli.Decompressor()
    text = bytes(stream.process(data, output_buffer_limit=MAX_TEXT_BYTES + 1))
    if not stream.is_finished():
        raise PayloadError("the brotli stream is not complete")
    return text


def _lzma2(dict_size: int) -> list[dict[str, int]]:
    preset = 9 | lzma.PRESET_EXTREME
    return [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dict_size}]


def _xz(data: bytes) -> bytes:
    # With the preset's own dictionary a short text takes 40 ms instead of 0.4, for the same bytes.
    filters = _lzma2(max(1 << 12, len(data)))
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)


def _unxz(data: bytes) -> bytes:
    stream = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_lzma2(MAX_TEXT_BYTES))
    text = stream.decompress(data, MAX_TEXT_BYTES + 1)
    if not stream.eof or stream.unused_data:
        raise PayloadError("the xz stream does not end where the payload does")
    return text


_Code = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]
GeneralCodec = Literal["stored", "deflate", "zstd", "brotli", "xz"]
TextCodec = Literal[GeneralCodec, "model", "index"]
_CODECS: dict[GeneralCodec, _Code] = {
    "stored": (bytes, bytes),
    "deflate": (_deflate, _inflate),
    "zstd": (_zstd, _unzstd),
    "brotli": (_brotli, _unbrotli),
    "xz": (_xz, _unxz),
}
CODECS = tuple(_CODECS)


def compress(data: bytes) -> dict[TextCodec, bytes]:
    """Return `data` encoded by each codec; each encoding was checked by decoding it.

    Raises:
        ValueError: if `data` is longer than `MAX_TEXT_BYTES`.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"{len(data)} bytes are more than a payload may hold ({MAX_TEXT_BYTES})")
    coded: dict[TextCodec, bytes] = {}
    for name, (encode, _) in _CODECS.items():
        coded[name] = encode(data)
        assert decompress(name, coded[name]) == data
    return coded


def decompress(codec: GeneralCodec, data: bytes) -> bytes:
    """Return the data that `compress` encoded.

    Raises:
        PayloadError: if `data` is damaged, incomplete or expands beyond `MAX_TEXT_BYTES`.
    """
    try:
        text = _CODECS[codec][1](data)
    except (zlib.error, zstandard.ZstdError, brotli.error, lzma.LZMAError, EOFError) as error:
        raise PayloadError(f"damaged {codec} section: {error}") from error
    if len(text) > MAX_TEXT_BYTES:
        raise PayloadError(f"the {codec} section expands beyond {MAX_TEXT_BYTES} bytes")
    return text
