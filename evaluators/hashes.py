"""Hashes of rows: 64 bits each, computed a column at a time.

Equal values have equal hashes within this version, whatever part of a file they stand in and
whether a column is dictionary-coded. They tell rows apart quickly but do not resist a search for
collisions, so a row must not be dropped because of one equal hash alone.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Hashes = npt.NDArray[np.uint64]

_SEED = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_NULL = np.uint64(0x5851F42D4C957F2D)
_WORD = 8
# All texts of a batch are hashed word by word together; a few long ones would slow down all.
_LONG_BYTES = 2048


def hash_text(text: str) -> int:
    """Return 64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_WORD], "little")


def hash_rows(batch: pa.RecordBatch, columns: Sequence[str], start: int = _SEED) -> Hashes:
    """Return a hash of these columns for each row.

    Args:
        batch: rows; texts, bytes, numbers, booleans or times, dictionary-coded or not.
        columns: names of the columns; their order matters.
        start: seed of the hashes; hashes of different seeds have different collisions.

    Raises:
        TypeError: for a column of another type.
    """
    found = np.full(len(batch), start, np.uint64)
    for name in columns:
        found = _mixed(found ^ _hash_column(batch.column(name), np.uint64(start)))
    return found


def _mixed(values: Hashes) -> Hashes:
    """Return values whose every bit depends on every input bit (finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))


def _hash_column(column: pa.Array, seed: np.uint64) -> Hashes:
    if pa.types.is_dictionary(column.type):
        codes = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
        each = _hash_column(column.dictionary, seed)
        # A column of nulls has an empty dictionary.
        found = each[codes] if len(each) else np.full(len(column), _NULL)
    elif pa.types.is_null(column.type):
        return np.full(len(column), _NULL)
    else:
        found = _hash_values(column, seed)
    if column.null_count:
        found[column.is_null().to_numpy(zero_copy_only=False)] = _NULL
    return found


def _hash_values(column: pa.Array, seed: np.uint64) -> Hashes:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _hash_bytes(column, seed)
    if pa.types.is_floating(kind):
        # Adding 0.0 turns -0.0 into 0.0: both are one value.
        numbers = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64) + 0.0
        return _mixed(numbers.view(np.uint64) ^ seed)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind):
        integers = column.cast(pa.int64()) if not pa.types.is_boolean(kind) else column.cast("int8")
        whole: Any = pc.fill_null(integers, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return _mixed(whole.view(np.uint64) ^ seed)
    raise TypeError(f"can't hash a column of type {kind}")


def _hash_bytes(column: pa.Array, seed: np.uint64) -> Hashes:
    """Return the hash of each text, computed over eight bytes of all texts at a time."""
    if not len(column):
        return np.empty(0, np.uint64)
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    starts, sizes = ends[:-1].astype(np.int64) - ends[0], np.diff(ends).astype(np.int64)
    raw = b"" if data is None else memoryview(data)[ends[0] : ends[-1]]
    padded = np.frombuffer(bytes(raw) + bytes(_WORD), np.uint8)
    # View of the eight bytes from every offset, without a copy.
    words = np.ndarray((len(padded) - _WORD + 1,), np.uint64, padded.data, 0, (1,))
    found = _mixed(sizes.view(np.uint64) ^ seed)
    long = np.flatnonzero(sizes > _LONG_BYTES)
    for row in long:
        text = padded[starts[row] : starts[row] + sizes[row]].tobytes()
        found[row] ^= np.frombuffer(
            hashlib.sha256(seed.tobytes() + text).digest()[:_WORD], np.uint64
        )[0]
    rows, at = np.flatnonzero((sizes > 0) & (sizes <= _LONG_BYTES)), 0
    while len(rows):
        left = sizes[rows] - at
        word = words[starts[rows] + at]
        cut = left < _WORD
        word[cut] &= (np.uint64(1) << (8 * left[cut]).astype(np.uint64)) - np.uint64(1)
        found[rows] = _mixed(found[rows] ^ word)
        rows, at = rows[left > _WORD], at + _WORD
    return found
