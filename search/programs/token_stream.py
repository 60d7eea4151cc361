"""One range coder for tokens whose tables change as a model learns: the pure part of the coder.

`TokenWriter` takes each token with the logits that predict it, `TokenReader` gives it back from the
same logits. Neither counts tokens nor checks them: that is for whoever knows when a text ends. The
tables and the order of the bytes are those of `search.programs.token_coder`; there is no header.

    stream = the range coder's bytes from last to first, cut to the fewest
"""

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
from constriction import stream

from search.programs.text import PayloadError
from search.programs.token_coder import LADDER, CodingError, table_of

Logits = npt.NDArray[np.float32]
Table = npt.NDArray[np.uint8]

_WEIGHTS = np.array([*LADDER, 0], np.float64)
_FEWEST_CUT = 9  # bytes: the coder writes one state of 64 bits more than it needs, at most

# The last tokens are decoded again to see which bytes they need. A token depends on the word where
# it begins and the next; the coder's last words are all that a cut changes.
_WORD_BYTES = 4
_WORDS_KEPT = 8


class TokenWriter:
    """Writes tokens; keeps the tables of the last few words only, whatever the vocabulary."""

    def __init__(self) -> None:
        self._encoder = stream.queue.RangeEncoder()
        self._last: deque[tuple[tuple[int, Any], int, Table]] = deque()

    def write(self, token: int, logits: Logits) -> None:
        """Add a token.

        Raises:
            CodingError: if it is none of the vocabulary's, or the logits are not finite.
        """
        table = table_of(logits)
        if not 0 <= token < len(table):
            raise CodingError(f"the id {token} is none of the model's {len(table)} tokens")
        place = self._encoder.pos()
        while self._last and self._last[0][0][0] < place[0] - _WORDS_KEPT:
            self._last.popleft()
        self._last.append((place, token, table))
        self._encoder.encode(token, _model(table))

    def section(self) -> bytes:
        """Return the shortest stream that decodes to what was written.

        Raises:
            CodingError: if none does.
        """
        code = self._encoder.get_compressed().astype(">u4").tobytes()
        for kept in range(max(0, len(code) - _FEWEST_CUT), len(code) + 1):
            number = int.from_bytes(code[:kept])
            for higher in (number, number + 1):
                if higher.bit_length() <= 8 * kept and self._decodes(code, higher.to_bytes(kept)):
                    return higher.to_bytes(kept, "little")
        raise CodingError("the coder's stream does not decode to its input")

    def _decodes(self, code: bytes, short: bytes) -> bool:
        if not self._last:
            return True
        first = self._last[0][0]
        before = _WORD_BYTES * first[0]
        if short[:before] != code[:before]:
            return False
        decoder = _decoder(short[::-1])
        try:
            decoder.seek(*first)
            return all(decoder.decode(_model(table)) == token for _, token, table in self._last)
        except (AssertionError, ValueError):  # constriction's words for what no encoder wrote
            return False


class TokenReader:
    """Reads what a `TokenWriter` wrote."""

    def __init__(self, section: bytes) -> None:
        self._decoder = _decoder(section)

    def read(self, logits: Logits) -> int:
        """Return the next token; past the end there are more, of no meaning.

        Raises:
            PayloadError: if the stream is damaged, or the logits are not finite.
        """
        try:
            return int(self._decoder.decode(_model(table_of(logits))))
        except (AssertionError, CodingError) as error:
            raise PayloadError(f"the stream does not decode by this model: {error}") from error


def _decoder(section: bytes) -> Any:
    words = np.frombuffer(bytes(-len(section) % _WORD_BYTES) + section, "<u4")
    return stream.queue.RangeDecoder(words[::-1].astype(np.uint32))


def _model(table: Table) -> Any:
    return stream.model.Categorical(_WEIGHTS[table], lazy=True)
