"""The base model as a text codec: token ids to bytes and back, by its own predictions.

The bytes of `encode_tokens` decode to the same ids wherever the model gives the same logits after
rounding, as it does on the machine and in the number format of the encoding; this is checked before
the bytes are returned. A float at the edge of a rounding step can make another machine or library
decode other ids: a checksum of 8 bits detects this, except in 1 case of 256.

A section is, in this order,

- 1 byte: the sum of all ids, the start token's included, modulo 256;
- 1 to 3 bytes: the number of tokens without the start token, 7 bits a byte, lowest first;
- the range coder's bytes (Martin 1979, by constriction) from last to first, cut to the fewest.

The order is reversed for the sake of a short program: it pads the whole section with zero bytes in
front to whole words and reads these in reverse. The header then follows the stream, where the
decoder never reads.

Each token has a table of integers: the logits are rounded to whole nats, and a logit `n` below the
highest gets `LADDER[n]`, or 0 from `len(LADDER)` on. The coder adds 2^-24 to every probability, so
that each token can be coded, for 24 bits at most. On the embedded model whole nats need as many
bits as halves, and the edges of their steps lie further apart.

Tokens whose tables change as a model learns have a coder that never runs the model itself:
`TokenWriter` takes each token with the logits that predict it, `TokenReader` returns it from the
same logits. Neither counts tokens nor checks them: the caller has to know when a text ends. The
tables and the order of the bytes are those of `kilobit.search.programs.token_coder`; there is no
header.

    stream = the range coder's bytes from last to first, cut to the fewest
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from constriction import stream

from kilobit.search.programs.text import PayloadError

NextLogits = Callable[[Sequence[int]], npt.NDArray[np.float32]]
"""From the ids so far, the start token first, to the next one's logits, shape [vocabulary]."""

MAX_TOKENS = 65536
# A section that declares more tokens is rejected: each would take a call of the model.
# A section that needs less than 1/16 bit per token is padded with zero bytes.
MAX_TOKENS_PER_BYTE = 128
Cache = Literal["none", "past_key_values", "cache_params", "state"]
"""The argument by which a model takes what it keeps of the tokens before; `none`: it reads all of
them again for each token. A program without one is several bytes shorter."""
CACHES: tuple[Cache, ...] = ("past_key_values", "cache_params", "state")
IMPORTS = ("numpy", "torch")
"""The modules that a program imports before the statements of `decoder_source`."""

# Computed with integers, so that no table depends on a library's `exp`.
LADDER = tuple(272**power // 100**power for power in range(13, -1, -1))
_WEIGHTS = np.array([*LADDER, 0], np.float64)
_MAX_VOCABULARY = 1 << 23  # of the coder's 2^24 steps of probability every token gets one
_FEWEST_CUT = 9  # bytes: the coder writes one state of 64 bits more than it needs, at most
# The last tokens are decoded again to see which bytes they need. A token depends on the word where
# it begins and the next, and a cut changes only the coder's last words.
_WORD_BYTES = 4
_WORDS_KEPT = 8


class CodingError(ValueError):
    """A text that the model can't code; the message says why."""


def table_of(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return each token's index in `LADDER`, the ladder's length for less likely tokens.

    Raises:
        CodingError: if the shape is wrong, or the highest logit is not a finite number.
    """
    if logits.ndim != 1 or not 2 <= len(logits) <= _MAX_VOCABULARY:
        raise CodingError(f"logits of shape {logits.shape} are not the logits of one token")
    nats = np.rint(logits.astype(np.float64))
    highest = nats.max()
    if not np.isfinite(highest):
        raise CodingError(f"the highest logit is {highest}")
    table: npt.NDArray[np.uint8] = np.minimum(highest - nats, len(LADDER)).astype(np.uint8)
    return table


def _header(ids: Sequence[int], start: int) -> bytes:
    header = bytearray([(start + sum(ids)) % 256])
    count = len(ids)
    while count >= 128:
        header.append(count % 128 + 128)
        count //= 128
    return bytes([*header, count])


def count_tokens(section: bytes) -> int:
    """Return the number of tokens that the header of a section declares.

    Raises:
        PayloadError: if it is incomplete, or declares more than the section can hold.
    """
    count = 0
    for position, byte in enumerate(section[1:4]):
        count += byte % 128 << 7 * position
        if byte < 128:
            if count > min(MAX_TOKENS, MAX_TOKENS_PER_BYTE * len(section)) or (
                position and not byte
            ):
                raise PayloadError(f"{len(section)} bytes can't hold {count} tokens")
            return count
    raise PayloadError("the section ends within its header or declares too many tokens")


def encode_tokens(ids: Sequence[int], start: int, next_logits: NextLogits) -> bytes:
    """Return the section of `ids`, which follow the token `start`.

    Calls `next_logits` twice for each token, in order: the second time the bytes are decoded.

    Raises:
        CodingError: if there are too many tokens, one is not in the vocabulary, the model's logits
            are not finite, or the bytes do not decode to `ids`.
    """
    if len(ids) > MAX_TOKENS:
        raise CodingError(f"{len(ids)} tokens are more than a section may hold ({MAX_TOKENS})")
    writer = TokenWriter()
    for position, token in enumerate(ids):
        writer.write(token, next_logits([start, *ids[:position]]))
    section = writer.section(_header(ids, start), -(-len(ids) // MAX_TOKENS_PER_BYTE))
    try:
        decoded = decode_tokens(section, start, next_logits)
    except PayloadError as error:
        raise CodingError(f"decoding with a second run of the model fails: {error}") from error
    if decoded != list(ids):
        raise CodingError("decoding with a second run of the model gives other tokens")
    return section


def decode_tokens(data: bytes, start: int, next_logits: NextLogits) -> list[int]:
    """Return the ids that `encode_tokens` encoded.

    Calls `next_logits` once for each token, `MAX_TOKENS_PER_BYTE * len(data)` times at most.

    Raises:
        PayloadError: if `data` is damaged, incomplete or was coded by another model.
    """
    count, reader, ids = count_tokens(data), TokenReader(data), list[int]()
    for _ in range(count):
        ids.append(reader.read(next_logits([start, *ids])))
    if (start + sum(ids)) % 256 != data[0]:
        raise PayloadError("the checksum differs: damaged, or coded by another model")
    return ids


def decoder_source(start: int, section: bytes, cache: Cache | None, there: str) -> str:
    """Return the statements by which a standalone program decodes `section`.

    They read `coded`, the section, `model`, a causal language model of transformers, its
    `tokenizer`, and the modules `IMPORTS`; they set `prompt`. They contain the values of the
    header as numbers, because a number is shorter than the code that would read it.

    Args:
        start: the token before the text.
        section: the section, or zeros of its length after its header.
        cache: what the model keeps of the tokens before. With one it reads a token at a time, and
            its weights need no gradients: their graph would hold the keys and values of each step.
            None is how programs read before there was a choice.
        there: the call that moves a tensor to the model's device; not used if `cache` is None.

    Raises:
        PayloadError: if the header of `section` is damaged.
    """
    count = count_tokens(section)
    padding = -len(section) % 4
    words = f"bytes({padding}) + coded" if padding else "coded"
    there = ".to(model.device)" if cache is None else there
    begin, step, read = "", "", f"model(torch.tensor([ids]){there}).logits"
    # `1 > 0` is True, `1 < 0` False: shorter after minification, and neither constriction (for
    # lazy=True) nor torch takes a number for it.
    if cache is not None and cache != "none":
        begin, read = "found = 0, None\n", "found[0]"
        last = f"torch.tensor([ids[-1:]]){there}"
        step = f"    found = model.requires_grad_(1 < 0)({last}, {cache}=found[1])\n"
    return f"""\
from constriction import stream
decoder = stream.queue.RangeDecoder(numpy.frombuffer({words}, "u4")[::-1])
ids = [{start}]
{begin}for _ in range({count}):
{step}    nats = numpy.round({read}[0, -1].tolist())
    ids += (
        decoder.decode(
            stream.model.Categorical(2.72 ** (nats - max(nats) + {len(LADDER) - 1}) // 1, 1 > 0)
        ),
    )
assert sum(ids) % 256 == {section[0]}
prompt = tokenizer.decode(ids[1:])
"""


Logits = npt.NDArray[np.float32]
Table = npt.NDArray[np.uint8]


class TokenWriter:
    """A writer of tokens; it keeps the tables of the last few words only."""

    def __init__(self) -> None:
        self._encoder = stream.queue.RangeEncoder()
        self._last: deque[tuple[tuple[int, Any], int, Table]] = deque()

    def write(self, token: int, logits: Logits) -> None:
        """Add a token.

        Raises:
            CodingError: if it is not in the vocabulary, or the logits are not finite.
        """
        table = table_of(logits)
        if not 0 <= token < len(table):
            raise CodingError(f"the id {token} is not one of the model's {len(table)} tokens")
        position = self._encoder.pos()
        while self._last and self._last[0][0][0] < position[0] - _WORDS_KEPT:
            self._last.popleft()
        self._last.append((position, token, table))
        self._encoder.encode(token, _stream_model(table))

    def section(self, header: bytes = b"", fewest: int = 0) -> bytes:
        """Return a header and the shortest stream after it that decodes to the written tokens.

        Args:
            header: bytes that the decoder finds behind the end of the stream.
            fewest: of bytes in all.

        Raises:
            CodingError: if no stream does.
        """
        code = self._encoder.get_compressed().astype(">u4").tobytes().ljust(fewest, b"\0")
        for kept in range(max(0, fewest - len(header), len(code) - _FEWEST_CUT), len(code) + 1):
            number = int.from_bytes(code[:kept])
            for higher in (number, number + 1):
                if higher.bit_length() <= 8 * kept:
                    section = header + higher.to_bytes(kept, "little")
                    if self._decodes(code, section):
                        return section
        raise CodingError("the coder's stream does not decode to its input")

    def _decodes(self, code: bytes, section: bytes) -> bool:
        if not self._last:
            return True
        first = self._last[0][0]
        before = _WORD_BYTES * first[0]
        if section[::-1][:before] != code[:before]:
            return False
        decoder = _stream_decoder(section)
        try:
            decoder.seek(*first)
            return all(
                decoder.decode(_stream_model(table)) == token for _, token, table in self._last
            )
        except (AssertionError, ValueError):  # constriction's errors for what no encoder wrote
            return False


class TokenReader:
    """A reader of the tokens that a `TokenWriter` wrote."""

    def __init__(self, section: bytes) -> None:
        self._stream_decoder = _stream_decoder(section)

    def read(self, logits: Logits) -> int:
        """Return the next token; past the end further tokens follow, without meaning.

        Raises:
            PayloadError: if the stream is damaged, or the logits are not finite.
        """
        try:
            return int(self._stream_decoder.decode(_stream_model(table_of(logits))))
        except (AssertionError, CodingError) as error:
            raise PayloadError(f"the stream does not decode with this model: {error}") from error


def _stream_decoder(section: bytes) -> Any:
    words = np.frombuffer(bytes(-len(section) % _WORD_BYTES) + section, "<u4")
    return stream.queue.RangeDecoder(words[::-1].astype(np.uint32))


def _stream_model(table: Table) -> Any:
    return stream.model.Categorical(_WEIGHTS[table], lazy=True)
