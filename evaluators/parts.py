"""One file of a ledger: rows of one table as Parquet, each with the name of its part."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from evaluators.storage import Place
from evaluators.stored_path import StorageError

SCHEMA_VERSION = "2"
# Version 1 had no attempts in the names of its files and no column `part`.
_READABLE_VERSIONS = ("1", SCHEMA_VERSION)
# Below this a compressor for each column costs three times the reading and saves no room.
_FEW_ROWS = 1000
PART = pa.field("part", pa.string())


class DamagedError(ValueError):
    """A file of a ledger is damaged or gone.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Place, why: object) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class _VersionError(ValueError):
    """A file is of a newer schema."""


def as_parquet(content: pa.Table) -> bytes:
    """Return rows as the bytes of a file."""
    content = content.replace_schema_metadata({"kilobit_schema": SCHEMA_VERSION})
    sink = pa.BufferOutputStream()
    few = len(content) < _FEW_ROWS
    compression = "none" if few else "zstd"
    pq.write_table(content, sink, compression=compression, write_page_checksum=True)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def with_part(content: pa.Table, name: str) -> pa.Table:
    """Return `content` with the part's name as the column `part`."""
    return content.append_column(PART, pa.repeat(pa.scalar(name), len(content)))


def read_parquet(path: Place, wanted: pa.Schema, fetched: bytes | None = None) -> pa.Table:
    """Return the columns `wanted` of one file.

    Args:
        path: the file.
        wanted: the columns.
        fetched: what is in the file, if it was read already.

    Raises:
        FileNotFoundError: if there is none.
        StorageError: if its store can't be read, which says nothing about the file.
        DamagedError: if it is no readable Parquet file.
        ValueError: naming the file, if it is of a newer schema.
    """
    with _damage_named(path):
        file, present = _opened(path, wanted, fetched)
        content = file.read(columns=present, use_threads=False)
    for name in wanted.names:
        # A column that was added later is null in older parts.
        if name not in present:
            content = content.append_column(name, pa.nulls(len(content), wanted.field(name).type))
    return content.select(wanted.names).cast(wanted)


def read_batches(
    path: Place, wanted: pa.Schema, coded: Sequence[str] = (), *, rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the columns `wanted` of one file, some rows at a time.

    Args:
        path: the file.
        wanted: the columns.
        coded: text columns with few values, which are given dictionary-coded.
        rows: of a batch, at most.

    Raises:
        As `read_parquet`.
    """
    with _damage_named(path):
        file, present = _opened(path, wanted, None, coded)
        found = file.iter_batches(rows, columns=present, use_threads=False)
    while True:
        with _damage_named(path):
            batch = next(found, None)
        if batch is None:
            return
        columns = [
            _as_wanted(batch.column(field.name), field)
            if field.name in present
            else pa.nulls(len(batch), field.type)
            for field in wanted
        ]
        yield pa.record_batch(columns, wanted.names)


def _as_wanted(column: pa.Array, field: pa.Field) -> pa.Array:
    return column if pa.types.is_dictionary(column.type) else column.cast(field.type)


@contextmanager
def _damage_named(path: Place) -> Iterator[None]:
    """Raise errors of reading as `DamagedError`, but for those that say nothing about the file."""
    try:
        yield
    except (FileNotFoundError, StorageError, _VersionError):
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DamagedError(path, f"not a part of a ledger: {error}") from error


def _opened(
    path: Place, wanted: pa.Schema, fetched: bytes | None, coded: Sequence[str] = ()
) -> tuple[pq.ParquetFile, list[str]]:
    """Return a file and which of the wanted columns it has."""
    raw = path.read_bytes() if fetched is None else fetched
    # A file is read by one thread: most are so small that handing them over costs more.
    file = pq.ParquetFile(
        pa.BufferReader(raw), page_checksum_verification=True, read_dictionary=list(coded)
    )
    # Each look at a file's schema makes it anew.
    schema = file.schema_arrow
    version = (schema.metadata or {}).get(b"kilobit_schema", b"?").decode()
    if version not in _READABLE_VERSIONS:
        raise _VersionError(f"{path}: ledger schema {version}, this version reads {SCHEMA_VERSION}")
    return file, [name for name in wanted.names if name in schema.names]
