"""Units of reading: files of one table of one source that are read and written together.

A unit is some 16 MB of Parquet, so a few of them are in memory at a time whatever the size of a
table, and two cores have something to do.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from evaluators.dataset import DATASET_TABLES, named
from evaluators.parts import PART, read_batches
from evaluators.storage import Place

# Texts of which a table has few, or the same in many rows that follow each other.
CODED = {
    "candidates": ("task", "model", "regime", "family", "part"),
    "rungs": ("split", "base_digest", "worker", "part"),
    "predictions": ("candidate", "split", "example", "part"),
}
_UNIT_BYTES = 1 << 24
_ROWS = 1 << 16
# Each may hold a payload of a megabyte.
_LARGE_ROWS = 1 << 8
_MOST_BYTES = 1 << 24
_AHEAD = 3

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class File:
    """A file of a table.

    Attributes:
        path: where it is.
        num_bytes: its size.
        part: the name of the part that all its rows came in; None where each row says it.
    """

    path: Place
    num_bytes: int
    part: str | None = None


@dataclass(frozen=True)
class Unit:
    """Some files of one table of one source.

    Attributes:
        source: the number of the source.
        table: the table.
        files: the files, in the order of their rows.
        root: the folder below which payloads lie.
        renamed: names of runs in the rows, and what they are called now.
    """

    source: int
    table: str
    files: tuple[File, ...]
    root: Place
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Return the size of its files."""
        return sum(file.num_bytes for file in self.files)

    def batches(self, columns: Sequence[str], *, coded: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield these columns of all rows, of which `part` may be one, some rows at a time.

        Args:
            columns: the columns.
            coded: give texts with few values dictionary-coded.

        Raises:
            ValueError: naming the file, if one is damaged or of a newer version.
            OSError: if one can't be read.
        """
        schema = DATASET_TABLES[self.table].append(PART)
        wanted = pa.schema([schema.field(name) for name in columns])
        texts = [c for c in CODED.get(self.table, ()) if c in columns] if coded else []
        rows = _LARGE_ROWS if self.table == "programs" else _ROWS
        waiting = Waiting(rows // 4, _MOST_BYTES)
        for file in self.files:
            for batch in read_batches(file.path, wanted, texts, rows=rows):
                # What is done with rows costs more by the batch than by the row.
                if waiting.add(self._as_now(batch, file.part)):
                    yield _one_batch(waiting.taken())
        if waiting.batches:
            yield _one_batch(waiting.taken())

    def _as_now(self, batch: pa.RecordBatch, part: str | None) -> pa.RecordBatch:
        names = batch.schema.names
        if part is not None and PART.name in names:
            column = pa.repeat(pa.scalar(part), len(batch))
            batch = batch.set_column(names.index(PART.name), PART, column)
        if self.renamed and "kept_run" in names:
            column = named(self.renamed, batch.column("kept_run"))
            batch = batch.set_column(names.index("kept_run"), "kept_run", column)
        return batch


@dataclass
class Waiting:
    """Rows that wait until there are enough of them.

    Attributes:
        most_rows: how many are enough.
        most_bytes: and how many bytes in memory.
    """

    most_rows: int
    most_bytes: int
    batches: list[pa.RecordBatch] = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0

    def add(self, batch: pa.RecordBatch) -> bool:
        """Add rows; return whether there are enough now."""
        self.batches.append(batch)
        self.num_rows += len(batch)
        self.num_bytes += batch.nbytes
        return self.num_rows >= self.most_rows or self.num_bytes >= self.most_bytes

    def taken(self) -> list[pa.RecordBatch]:
        """Return what waited; nothing waits any more."""
        found, self.batches, self.num_rows, self.num_bytes = self.batches, [], 0, 0
        return found


def _one_batch(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches([_decoded(batch) for batch in batches])


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows without codes, which mean something else in the next file."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.record_batch(columns, batch.schema.names)


def units_of(
    source: int,
    table: str,
    files: Iterable[File],
    root: Place,
    renamed: Mapping[str, str] | None = None,
) -> list[Unit]:
    """Return files as units of some 16 MB each, in their order."""
    groups: list[list[File]] = []
    size = _UNIT_BYTES
    for file in files:
        if size >= _UNIT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.num_bytes
    return [Unit(source, table, tuple(group), root, renamed or {}) for group in groups]


def file_at(path: Path, part: str | None = None) -> File:
    """Return a local file."""
    return File(path, path.stat().st_size, part)


def in_order(
    pool: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Yield what a function gives for each item, a few ahead of who takes them."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
