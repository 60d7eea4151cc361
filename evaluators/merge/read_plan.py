"""Units of work: files of one table of one source that are read and written together.

A unit is about 16 MB of Parquet, so memory holds a few units at a time whatever the size of a
table, and several cores can work in parallel.

Input files of a run or a data set, listed once so that every pass reads the same snapshot.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import PART, SCHEMA_VERSION, TABLES, read_batches
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.merge.dataset import DATASET_TABLES, files_of, named

# Text columns with few distinct values, or with long runs of the same value.
CODED = {
    "candidates": ("task", "model", "regime", "family", "part"),
    "rungs": ("split", "base_digest", "worker", "part"),
    "predictions": ("candidate", "split", "example", "part"),
}
_UNIT_BYTES = 1 << 24
_ROWS = 1 << 16
# For `programs`: each row may hold a payload of a megabyte.
_LARGE_ROWS = 1 << 8
_MOST_BYTES = 1 << 24
_AHEAD = 3

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Large tables whose parts compaction never rewrites, so they are read in place.
_IN_PARTS = ("predictions", "programs")


@dataclass(frozen=True)
class File:
    """A file of a table.

    Attributes:
        path: its path.
        num_bytes: its size.
        part: the name of the part that all its rows belong to; None if the column `part` names it.
    """

    path: Place
    num_bytes: int
    part: str | None = None


@dataclass(frozen=True)
class Unit:
    """Files of one table of one source that are processed together.

    Attributes:
        source: the number of the source.
        table: the table.
        files: the files, in the order of their rows.
        root: the folder that contains the payloads.
        renamed: new names of runs, by their names in the rows.
    """

    source: int
    table: str
    files: tuple[File, ...]
    root: Place
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Return the total size of its files."""
        return sum(file.num_bytes for file in self.files)

    def batches(self, columns: Sequence[str], *, coded: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield columns of all rows in batches.

        Args:
            columns: the columns; `part` may be one of them.
            coded: return text columns with few distinct values dictionary-coded.

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
                # Merge small batches: the work per batch outweighs the work per row.
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
    """A buffer of rows that is full at a number of rows or bytes.

    Attributes:
        most_rows: number of rows at which it is full.
        most_bytes: number of bytes in memory at which it is full.
    """

    most_rows: int
    most_bytes: int
    batches: list[pa.RecordBatch] = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0

    def add(self, batch: pa.RecordBatch) -> bool:
        """Add rows; return whether the buffer is full."""
        self.batches.append(batch)
        self.num_rows += len(batch)
        self.num_bytes += batch.nbytes
        return self.num_rows >= self.most_rows or self.num_bytes >= self.most_bytes

    def taken(self) -> list[pa.RecordBatch]:
        """Return the buffered batches and empty the buffer."""
        found, self.batches, self.num_rows, self.num_bytes = self.batches, [], 0, 0
        return found


def _one_batch(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches([_decoded(batch) for batch in batches])


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows without dictionary codes, whose meaning differs between files."""
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
    """Return files grouped into units of about 16 MB each, in order."""
    groups: list[list[File]] = []
    size = _UNIT_BYTES
    for file in files:
        if size >= _UNIT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.num_bytes
    return [Unit(source, table, tuple(group), root, renamed or {}) for group in groups]


def in_order(
    pool: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Yield the results of a function for each item in order, computed a few items ahead."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def units_of_ledger(source: int, ledger: Ledger, scratch: Path) -> dict[str, list[Unit]]:
    """Return the units of a run's ledger, by table.

    Args:
        source: its number among all sources.
        ledger: the ledger.
        scratch: the folder for copies of its small tables.

    Raises:
        ValueError: naming the file, if one is damaged, missing, or of a newer version.
        OSError: if the ledger can't be read, or a copy can't be written.
    """
    found = {}
    for table in (*(t for t in TABLES if t not in _IN_PARTS), *_IN_PARTS):
        files = _files_in_parts(ledger, table) if table in _IN_PARTS else None
        if files is None:
            copied = ledger.settled(partial(ledger.collect, table, TABLES[table]))
            files = [copy_of(copied, scratch / f"{source}-{table}.parquet")] if len(copied) else []
        found[table] = units_of(source, table, files, ledger.folder)
    return found


def _files_in_parts(ledger: Ledger, table: str) -> list[File] | None:
    """Return the files of a table if each holds one part; None if any was compacted."""
    accepted = ledger.accepted()
    if accepted.snapshots(table):
        return None
    parts = sorted(ledger.parts(table, accepted).items())
    try:
        return [File(path, path.stat().st_size, name) for name, path in parts]
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename or error}: the file is gone") from error


def copy_of(content: pa.Table, path: Path) -> File:
    """Write rows that include the column `part` to a local file and return it."""
    content = content.replace_schema_metadata({"kilobit_schema": SCHEMA_VERSION})
    pq.write_table(content, path, compression="zstd")
    return File(path, path.stat().st_size)


def units_of_dataset(
    source: int, name: str, folder: Place, renamed: Mapping[str, str]
) -> dict[str, list[Unit]]:
    """Return the units of one run of a data set, by table.

    Args:
        source: its number among all sources.
        name: the run's name in that data set.
        folder: the data set.
        renamed: new names of runs, by their names in that data set.

    Raises:
        OSError: if a file can't be read.
    """
    found = {}
    for table in DATASET_TABLES:
        paths = files_of(folder, table).get(name, ())
        files = [File(path, path.stat().st_size) for path in paths]
        found[table] = units_of(source, table, files, folder, renamed)
    return found


def size_and_digest(units: Mapping[str, Sequence[Unit]]) -> tuple[int, str]:
    """Return the total bytes of a source's files and a digest of their names and sizes."""
    files = [file for each in units.values() for unit in each for file in unit.files]
    lines = sorted(f"{file.path.parent.name}/{file.path.name} {file.num_bytes}" for file in files)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return sum(file.num_bytes for file in files), digest
