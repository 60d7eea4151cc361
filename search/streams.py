"""Named random streams, and noise that a program can draw again.

Every random draw of the project comes from a stream named after its purpose, never from a global
generator. The order in which a cluster finishes its work therefore changes no draw.

Noise of programs is a stream of integers that depends on a seed and a counter alone: the bytes of
SHAKE128 (FIPS 202) of the text `SEED,COUNTER` in decimal. It is the same on every machine and in
every version of every library, any part of it is drawn without the parts before, and program.py
draws it again in one expression, `noise_source`.
"""

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def stream_seed(*name: str | int) -> int:
    """Return a 63-bit seed that depends only on `name`, on every machine and version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in name)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(*name: str | int) -> random.Random:
    """Return the generator of the stream `name`, e.g. `stream(run_seed, "space", "prompt")`."""
    return random.Random(stream_seed(*name))  # noqa: S311 - draws, not secrets


def noise_words(seed: int, counter: int, count: int) -> "npt.NDArray[np.uint32]":
    """Return `count` noise words of 32 bits: four bytes of the stream each, little-endian.

    A small integer is a word modulo its number of values; for at most 2 ** 16 values no value is
    then more frequent than another by a share above 2 ** -16.
    """
    # Here and below, because a refusal of wrong input needs no numpy.
    import numpy as np

    return np.frombuffer(_noise_bytes(seed, counter, 4 * count), "<u4").astype(np.uint32)


def noise_signs(seed: int, counter: int, count: int) -> "npt.NDArray[np.int8]":
    """Return `count` noise signs: the bits of the stream, highest of each byte first; 1 is +1."""
    import numpy as np

    drawn = np.frombuffer(_noise_bytes(seed, counter, -(-count // 8)), np.uint8)
    return (2 * np.unpackbits(drawn, count=count).astype(np.int8) - 1).astype(np.int8)


def noise_source(seed: str, counter: str, num_bytes: str) -> str:
    """Return the expression by which program.py draws bytes of noise.

    Args:
        seed: expression of the seed, an integer.
        counter: expression of the counter, an integer.
        num_bytes: expression of the number of bytes.
    """
    return f"hashlib.shake_128(b'%d,%d' % ({seed}, {counter})).digest({num_bytes})"


def _noise_bytes(seed: int, counter: int, num_bytes: int) -> bytes:
    return hashlib.shake_128(b"%d,%d" % (seed, counter)).digest(num_bytes)
