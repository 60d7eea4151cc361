"""Numbers as sums of noise: a seed and signs of rewards instead of the numbers themselves.

    section = checksum byte | seed byte | tie byte | one integer

Training by reward moves all numbers by signs of noise (`kilobit.search.streams.noise_signs`): those
of each pair of members, times the sign of the difference of the pair's rewards, or not at all if
the rewards are equal. So the sequence of these signs is the whole training, and whoever draws the
noise again has the same sums, which are integers, to the bit.

The integer holds the signs one above the other, by asymmetric numeral systems (Duda 2009, arXiv
0902.0271) without any renormalisation: a tie takes log2(128 / ties) bits, where `ties` is the tie
byte, and another sign log2(128 / (128 - ties)) + 1, so exactly one bit each where no pair is tied.
The number of signs and of sums is not stored. The checksum is the sum of all sums modulo 251; noise
comes in whole bytes, and the sums past the end of the numbers count in it too.
`Replay.read` raises `PayloadError` and nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from kilobit.search.programs.text import PayloadError
from kilobit.search.streams import noise_signs

Sums = npt.NDArray[np.int64]

# Reading one integer of many signs takes time quadratic in their number.
MAX_SIGNS = 1 << 14
_WHOLE, _PRIME = 128, 251
HEAD_BYTES = 3


@dataclass
class Replay:
    """Sums of noise that grow by one sign of a reward after the other.

    Attributes:
        seed: of the noise, a byte.
        size: number of sums.
        signs: the signs so far, each -1, 0 or 1.
    """

    seed: int
    size: int
    signs: list[int] = field(default_factory=list)
    _sums: Sums = field(init=False)

    def __post_init__(self) -> None:
        signs, self.signs = self.signs, []
        self._sums = np.zeros(8 * math.ceil(self.size / 8), np.int64)
        for sign in signs:
            self.add(sign)

    @property
    def sums(self) -> Sums:
        """Return the sums, shape [size]."""
        return self._sums[: self.size].copy()

    def noise(self, ahead: int) -> Sums:
        """Return the noise of the sign that comes after `ahead` others, shape [size]."""
        return self._noise(len(self.signs) + ahead)[: self.size]

    def add(self, sign: int) -> None:
        """Add the next noise, times `sign`."""
        if sign:
            self._sums += sign * self._noise(len(self.signs))
        self.signs.append(sign)

    def _noise(self, index: int) -> Sums:
        return noise_signs(self.seed, index, len(self._sums)).astype(np.int64)

    @property
    def _checksum(self) -> int:
        return int(self._sums.sum()) % _PRIME

    def section(self) -> bytes:
        """Return the section; there must be at most `MAX_SIGNS` signs."""
        assert len(self.signs) <= MAX_SIGNS
        ties = _ties(self.signs)
        number = 0
        for sign in reversed(self.signs):
            if sign:
                number, rest = divmod(2 * number + (sign > 0), _WHOLE - ties)
                rest += ties
            else:
                number, rest = divmod(number, ties)
            number = number * _WHOLE + rest
        body = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return bytes([self._checksum, self.seed, ties]) + body

    @classmethod
    def read(cls, data: bytes, num_signs: int, size: int) -> Self:
        """Return the replay that a section holds.

        Args:
            data: the section.
            num_signs: its number of signs.
            size: its number of sums.

        Raises:
            PayloadError: if the section is not what `section` returns.
        """
        if len(data) < HEAD_BYTES or data[2] >= _WHOLE:
            raise PayloadError("a replay section begins with checksum, seed and a tie byte < 128")
        ties, body = data[2], data[HEAD_BYTES:]
        # No sign takes more than 8 bits.
        if len(body) > num_signs or body[:1] == b"\0":
            raise PayloadError("the replay section is longer than its signs")
        number, signs = int.from_bytes(body, "big"), []
        for _ in range(num_signs):
            number, rest = divmod(number, _WHOLE)
            if rest < ties:
                number, sign = number * ties + rest, 0
            else:
                number, bit = divmod(number * (_WHOLE - ties) + rest - ties, 2)
                sign = 2 * bit - 1
            signs.append(sign)
        if number:
            raise PayloadError("bytes follow the end of the replay")
        try:
            found = cls(data[1], size, signs)
        except (MemoryError, ValueError) as error:
            raise PayloadError(f"not enough memory for {size} numbers: {error}") from error
        if found._checksum != data[0]:
            raise PayloadError("the sums of the replay differ from its checksum")
        return found


def _ties(signs: Sequence[int]) -> int:
    """Return the tie byte: the share of ties in 128ths, above 0 if there is one."""
    count = signs.count(0)
    if not count:
        return 0
    return min(_WHOLE - 1, max(1, round(_WHOLE * count / len(signs))))
