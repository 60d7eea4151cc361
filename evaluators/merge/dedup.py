"""Duplicate rows found by hashes, over any number of rows in bounded memory.

Each row becomes 24 bytes: a hash of its subject, a hash of subject and findings, and its number.
They are spread over files by the first hash, so that rows with the same subject meet in one file,
and each file is sorted by itself. A row is a duplicate if both hashes equal those of a row of an
earlier source. If only the first does, both rows are read again and compared: either they conflict,
or the hashes collided and the row is kept. So only a collision of all 128 bits can lose a row.

Memory: 24 bytes per row of one of these files, and a quarter of a million pairs that may conflict,
besides the units being read.
Disk: 25 bytes per row, until the end.

Hashes of rows: 64 bits each, computed a column at a time by pandas (SipHash for texts). Equal
values have equal hashes within this version, whatever part of a file they stand in and whether a
column is dictionary-coded. They tell rows apart quickly but do not resist a search for collisions,
so a row must not be dropped because of one equal hash alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kilobit.evaluators.ledger.parts import PART
from kilobit.evaluators.merge.dataset import CONFLICTS, Claim
from kilobit.evaluators.merge.read_plan import Unit, in_order

Hashes = npt.NDArray[np.uint64]

_SEED = 0x9E3779B97F4A7C15
_NULL = np.uint64(0x5851F42D4C957F2D)
_ENTRY = np.dtype([("about", np.uint64), ("all", np.uint64), ("row", np.uint64)])
_SPREAD_BYTES = 1 << 22
_MOST_FILES = 256
_PAIRS_AT_ONCE = 1 << 18
_OTHER = 0x243F6A8885A308D3


def hash_text(text: str) -> int:
    """Return 64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def hash_rows(batch: pa.RecordBatch, columns: Sequence[str], start: int = _SEED) -> Hashes:
    """Return a hash of these columns for each row.

    Args:
        batch: rows; texts, bytes, numbers, booleans or times, dictionary-coded or not.
        columns: names of the columns; their order matters.
        start: seed of the hashes; hashes of different seeds have different collisions.

    Raises:
        TypeError: for a column of another type.
    """
    # Imported here, because a refusal of `aggregate` needs none of it.
    from pandas.util import hash_array

    found = np.full(len(batch), start, np.uint64)
    for name in columns:
        # The outer hash is a finaliser: every bit depends on every bit of all columns so far.
        found = hash_array(found ^ _hash_column(batch.column(name), f"{start:016x}"))
    return found


def _hash_column(column: pa.Array, key: str) -> Hashes:
    kind = column.type
    if pa.types.is_dictionary(kind):
        # A column of nulls has an empty dictionary.
        each = np.append(_hash_column(column.dictionary, key), _NULL)
        codes = column.indices.fill_null(len(each) - 1).to_numpy(zero_copy_only=False)
        coded: Hashes = each[codes]
        return coded
    if pa.types.is_null(kind):
        return np.full(len(column), _NULL)
    if pa.types.is_nested(kind):
        raise TypeError(f"can't hash a column of type {kind}")
    known = column.drop_null()
    if pa.types.is_timestamp(kind):
        known = known.cast(pa.int64())
    found = np.full(len(column), _NULL)
    from pandas.util import hash_array

    hashes = hash_array(known.to_numpy(zero_copy_only=False), hash_key=key, categorize=False)
    found[column.is_valid().to_numpy(zero_copy_only=False)] = hashes
    return found


Rows = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Duplicates:
    """Rows of a table that are dropped.

    Attributes:
        offsets: the number of the first row of each unit, and at the end the number of rows.
        marks: for each row whether it is dropped.
    """

    offsets: npt.NDArray[np.int64]
    marks: Marks

    def of_unit(self, number: int) -> Marks:
        """Return for each row of a unit whether it is dropped."""
        found: Marks = self.marks[self.offsets[number] : self.offsets[number + 1]]
        return found


def find_duplicates(
    units: Sequence[Unit],
    claim: Claim,
    shared: Sequence[int],
    scratch: Path,
    pool: Executor,
    conflict: Callable[[int, int, pa.Table], None],
    advance: Callable[[int], None],
) -> Duplicates:
    """Return the rows that repeat or contradict a row of an earlier source.

    Args:
        units: all rows of one table; sources in the order in which their rows have precedence.
        claim: subject and findings of the rows of this table.
        shared: for each source a hash of the properties that runs must share, 64 bits.
        scratch: an empty folder.
        pool: runs the hashing.
        conflict: called with the number of the source whose row is kept, the number of the other
            source, and rows of `conflicts` with the part of the other, without `kept_run`.
        advance: called with the bytes of each unit that was hashed.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
        OSError: if one can't be read, or `scratch` can't be written.
    """
    spread = _Spread(scratch, sum(unit.num_bytes for unit in units))

    def hashed(unit: Unit) -> tuple[Hashes, Hashes]:
        return _hashes(unit, claim, shared[unit.source])

    offsets = [0]
    for unit, (about, both) in zip(units, in_order(pool, hashed, units), strict=True):
        spread.add(about, both, offsets[-1])
        offsets.append(offsets[-1] + len(about))
        advance(unit.num_bytes)
    # No file of zero bytes can be mapped.
    marks = np.memmap(scratch / "marks", np.bool_, "w+", shape=(offsets[-1] + 1,))
    found = Duplicates(np.array(offsets), marks[:-1])
    sources = np.array([unit.source for unit in units])
    reader = _Reader(units, found.offsets, claim, shared)
    for kept, other in _in_bulk(_pairs(spread, reader, sources, found.marks)):
        found.marks[reader.contradicting(kept, other, conflict)] = True
    return found


def _pairs(
    spread: "_Spread", reader: "_Reader", sources: npt.NDArray[np.int64], marks: Marks
) -> Iterator[tuple[Rows, Rows]]:
    """Mark rows that repeat others, and yield pairs of rows that may contradict each other."""
    for entries in spread.files():
        repeated, kept, other = _sorted_out(entries, sources[reader.unit_of(entries["row"])])
        marks[repeated] = True
        yield kept, other


def _in_bulk(pairs: Iterable[tuple[Rows, Rows]]) -> Iterator[tuple[Rows, Rows]]:
    """Yield the same pairs in large groups, because files are read again for each group."""
    waiting: list[tuple[Rows, Rows]] = []
    for kept, other in pairs:
        for start in range(0, len(other), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            waiting.append((kept[part], other[part]))
            if sum(len(each) for _, each in waiting) >= _PAIRS_AT_ONCE:
                yield _joined(waiting)
                waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(pairs: Sequence[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    kept, other = zip(*pairs, strict=True)
    return np.concatenate(kept), np.concatenate(other)


class _Spread:
    """Entries spread over files by the first bits of the hash of their subject."""

    def __init__(self, folder: Path, num_bytes: int) -> None:
        self._folder = folder
        self._bits = min(_MOST_FILES, max(2, num_bytes // _SPREAD_BYTES)).bit_length() - 1

    def _path(self, number: int) -> Path:
        return self._folder / f"entries-{number}"

    def add(self, about: Hashes, both: Hashes, first: int) -> None:
        entries = np.empty(len(about), _ENTRY)
        entries["about"], entries["all"] = about, both
        entries["row"] = np.arange(first, first + len(about), dtype=np.uint64)
        number = (about >> np.uint64(64 - self._bits)).astype(np.uint8)
        order = np.argsort(number, kind="stable")
        ends = np.searchsorted(number[order], np.arange(1 << self._bits), side="right")
        for position, piece in enumerate(np.split(entries[order], ends[:-1])):
            with self._path(position).open("ab") as file:
                file.write(piece.data)

    def files(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the entries of each file in the order of their rows, and delete the file."""
        for number in range(1 << self._bits):
            path = self._path(number)
            if path.exists():
                yield np.fromfile(path, _ENTRY)
                path.unlink()


def _sorted_out(
    entries: npt.NDArray[Any], source: npt.NDArray[np.int64]
) -> tuple[Rows, Rows, Rows]:
    """Return rows that repeat another, and pairs of rows that may contradict each other."""
    order = np.argsort(entries["about"], kind="stable")
    about, both, row = (entries[name][order] for name in ("about", "all", "row"))
    begins = np.ones(len(about), np.bool_)
    begins[1:] = about[1:] != about[:-1]
    # For each row the first one with the same hash: it is kept, and so are all of its source.
    first = np.flatnonzero(begins)[np.cumsum(begins) - 1]
    elsewhere = source[order] != source[order][first]
    same = both == both[first]
    unlike = elsewhere & ~same
    return row[elsewhere & same], row[first][unlike], row[unlike]


def _hashes(unit: Unit, claim: Claim, start: int) -> tuple[Hashes, Hashes]:
    """Return for each row a hash of its subject, and a hash of subject and findings."""
    about, both = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for batch in unit.batches(_columns(claim), coded=True):
        rows = _with_failure(batch, claim)
        about.append(hash_rows(rows, _about(claim), start))
        both.append(hash_rows(rows, _columns(claim), start ^ _OTHER))
    return np.concatenate(about), np.concatenate(both)


def _columns(claim: Claim) -> list[str]:
    error = ["error"] if claim.fails else []
    return [*claim.about, *(name for name in claim.says if name not in claim.about), *error]


def _about(claim: Claim) -> list[str]:
    return [*claim.about, *(["error"] if claim.fails else [])]


def _with_failure(batch: pa.RecordBatch, claim: Claim) -> pa.RecordBatch:
    """Return rows whose column `error` is replaced by whether there is an error."""
    if not claim.fails:
        return batch
    position = batch.schema.get_field_index("error")
    return batch.set_column(position, "error", batch.column(position).is_valid())


@dataclass(frozen=True)
class _Reader:
    """Reader of rows by their numbers."""

    units: Sequence[Unit]
    offsets: npt.NDArray[np.int64]
    claim: Claim
    shared: Sequence[int]

    def unit_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        return np.searchsorted(self.offsets, rows.astype(np.int64), side="right") - 1

    def contradicting(
        self, kept: Rows, other: Rows, conflict: Callable[[int, int, pa.Table], None]
    ) -> Rows:
        """Return the rows of `other` with the subject of `kept`, and report their differences."""
        one, two = self._rows(kept), self._rows(other)
        sources = np.array([unit.source for unit in self.units])
        of_one, of_two = sources[self.unit_of(kept)], sources[self.unit_of(other)]
        shared = np.array(self.shared, np.uint64)
        same = pa.chunked_array([pa.array(shared[of_one] == shared[of_two])])
        for name in _about(self.claim):
            same = pc.and_(same, _equal(one[name], two[name]))
        pairs = np.stack([of_one, of_two])
        for pair in np.unique(pairs, axis=1).T:
            chosen = pc.and_(same, pa.array(np.all(pair == pairs.T, axis=1)))
            if pc.any(chosen).as_py():
                table = _differences(self.units[0].table, one.filter(chosen), two.filter(chosen),
                                     self.claim)  # fmt: skip
                if len(table):
                    conflict(int(pair[0]), int(pair[1]), table)
        found: Rows = other[same.to_numpy()]
        return found

    def _rows(self, rows: Rows) -> pa.Table:
        """Return rows by their numbers, in the order given."""
        wanted, position = np.unique(rows, return_inverse=True)
        unit_of, tables = self.unit_of(wanted), []
        for number in np.unique(unit_of):
            inside = wanted[unit_of == number].astype(np.int64) - self.offsets[number]
            tables.append(self._rows_of(self.units[number], inside))
        return pa.concat_tables(tables).take(pa.array(position))

    def _rows_of(self, unit: Unit, inside: npt.NDArray[np.int64]) -> pa.Table:
        batches, first = [], 0
        for batch in unit.batches([*_columns(self.claim), PART.name]):
            here = inside[(inside >= first) & (inside < first + len(batch))] - first
            batches.append(_with_failure(batch.take(pa.array(here)), self.claim))
            first += len(batch)
        return pa.Table.from_batches(batches)


def _equal(one: pa.ChunkedArray, two: pa.ChunkedArray) -> pa.ChunkedArray:
    both_unknown = pc.and_(pc.is_null(one), pc.is_null(two))
    return pc.or_(pc.fill_null(pc.equal(one, two), False), both_unknown)


def _differences(table: str, one: pa.Table, two: pa.Table, claim: Claim) -> pa.Table:
    """Return a row of `conflicts` for each column in which two rows differ."""
    schema, found = CONFLICTS.append(PART), []
    for name in claim.says:
        differ = pc.invert(_equal(one[name], two[name]))
        kept, other = one.filter(differ), two.filter(differ)
        columns = {
            "table": pa.repeat(table, len(kept)),
            "column": pa.repeat(name, len(kept)),
            "kept": kept[name].cast(pa.string()),
            "other": other[name].cast(pa.string()),
            "kept_part": kept[PART.name],
            PART.name: other[PART.name],
        } | {c: kept[c] for c in claim.about if c in CONFLICTS.names}
        if "program" in claim.says:
            # Where the program is a finding, identify it by that of the kept row.
            columns["program"] = kept["program"]
        arrays = [columns.get(field.name, pa.nulls(len(kept), field.type)) for field in schema]
        found.append(pa.table(arrays, schema=schema))
    return pa.concat_tables(found)
