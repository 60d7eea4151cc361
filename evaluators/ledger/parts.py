"""One Parquet file of a ledger: rows of one table, each with the name of its part.

The schemas of the tables are made from the records.
"""

import mmap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from kilobit.evaluators.ledger.storage import Place, read_own
from kilobit.evaluators.ledger.stored_path import StorageError
from kilobit.search.records import RECORDS, Record

_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def columns(record: type[Record]) -> list[tuple[str, pa.DataType, str]]:
    """Return name, type and meaning of each column of a table."""
    hints = get_type_hints(record, include_extras=True)
    return [
        (name, _arrow(hint), get_args(hint)[-1])
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
    ]


def _arrow(kind: Any) -> pa.DataType:
    """Return the Arrow type of a field's type; None beside it makes no difference."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return pa.int32() if "int32" in options else _arrow(options[0])
    if origin in (Union, UnionType):
        return _arrow(options[0])
    if origin is tuple:
        return pa.list_(_arrow(options[0]))
    return pa.string() if origin is Literal else _TYPES[kind]


TABLES: dict[str, pa.Schema] = {
    record.table: pa.schema([(name, kind) for name, kind, _ in columns(record)])
    for record in RECORDS
}

SCHEMA_VERSION = "2"
# Version 1 had no attempts in the names of its files and no column `part`.
_READABLE_VERSIONS = ("1", SCHEMA_VERSION)
# The key of a file's checksum in its footer, and its value while it is computed.
_SUM, _NO_SUM = b"kilobit_crc32", b"00000000"
# What the schema of a file to be written has besides its origin.
UNSEALED = {"kilobit_schema": SCHEMA_VERSION, _SUM.decode(): _NO_SUM.decode()}
# In smaller files, decompressing each column triples the time to read and saves no space.
_FEW_ROWS = 1000
PART = pa.field("part", pa.string())


class DamagedError(ValueError):
    """A file of a ledger is damaged or missing.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Place, why: object) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class _VersionError(ValueError):
    """A file has a newer schema."""


def as_parquet(content: pa.Table, file: str | None = None, run: str | None = None) -> bytes:
    """Return rows encoded as a Parquet file.

    Args:
        content: the rows.
        file: the file's name; whoever reads it under another name finds it damaged.
        run: the run's id; so does whoever reads it in another run.
    """
    origin = {"kilobit_file": file, "kilobit_run": run}
    known = {key: value for key, value in origin.items() if value is not None}
    content = content.replace_schema_metadata(known | UNSEALED)
    sink = pa.BufferOutputStream()
    few = len(content) < _FEW_ROWS
    compression = "none" if few else "zstd"
    pq.write_table(content, sink, compression=compression, write_page_checksum=True)
    written: bytes = sink.getvalue().to_pybytes()
    at = _place_of_sum(written)
    assert written[at : at + len(_NO_SUM)] == _NO_SUM
    return b"%s%08x%s" % (written[:at], _sum(written, at), written[at + len(_NO_SUM) :])


def seal(path: Path) -> None:
    """Write the checksum of a finished file, whose schema has `UNSEALED`, into its footer."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        at = _place_of_sum(content)
        content[at : at + len(_NO_SUM)] = b"%08x" % _sum(content, at)


def checked(content: bytes) -> bytes:
    """Return the content of a Parquet file if it is as it was written.

    Checksums of pages do not cover the footer, where one changed letter makes a column disappear.

    Raises:
        ValueError: if it differs; older files have no checksum of the whole and are returned.
    """
    at = _place_of_sum(content)
    if at and content[at : at + len(_NO_SUM)] != b"%08x" % _sum(content, at):
        raise ValueError("its checksum differs")
    return content


def _place_of_sum(content: bytes | mmap.mmap) -> int:
    """Return where the checksum of a whole file is in its footer, 0 if it has none."""
    at = content.rfind(_SUM)
    # Between a key and its value Parquet's footer has the type and the length of the value.
    return 0 if at < 0 else at + len(_SUM) + 2


def _sum(content: bytes | mmap.mmap, at: int) -> int:
    """Return the CRC-32 of a file without its checksum, which is at `at`."""
    with memoryview(content) as view, view[:at] as before, view[at + len(_NO_SUM) :] as after:
        return zlib.crc32(after, zlib.crc32(before))


def with_part(content: pa.Table, name: str) -> pa.Table:
    """Return `content` with the part's name as the column `part`."""
    return content.append_column(PART, pa.repeat(pa.scalar(name), len(content)))


def read_parquet(
    path: Place, wanted: pa.Schema, fetched: bytes | None = None, run: str | None = None
) -> pa.Table:
    """Return the columns `wanted` of one file.

    Args:
        path: the file.
        wanted: the columns.
        fetched: the file's content, if it was read already.
        run: the id of the run that it has to belong to, where both are known.

    Raises:
        FileNotFoundError: if the file does not exist.
        StorageError: if its store can't be read; the file itself may be intact.
        DamagedError: if it is not a readable Parquet file, or was written as another one.
        ValueError: naming the file, if it has a newer schema.
    """
    with _damage_named(path):
        file, present = _opened(path, wanted, fetched, run=run)
        content = file.read(columns=present, use_threads=False)
        for name in wanted.names:
            # Older parts lack columns that were added later; fill them with nulls.
            if name not in present:
                added = pa.nulls(len(content), wanted.field(name).type)
                content = content.append_column(name, added)
        return content.select(wanted.names).cast(wanted)


def read_batches(
    path: Place, wanted: pa.Schema, coded: Sequence[str] = (), *, rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the columns `wanted` of one file in batches of rows.

    Args:
        path: the file.
        wanted: the columns.
        coded: text columns with few distinct values, returned dictionary-coded.
        rows: largest number of rows in a batch.

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
        with _damage_named(path):
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
    """Raise read errors as `DamagedError`, unless the file is missing, newer or out of reach."""
    try:
        yield
    except (FileNotFoundError, StorageError, _VersionError):
        raise
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise DamagedError(path, f"not a part of a ledger: {error}") from error


def _opened(
    path: Place,
    wanted: pa.Schema,
    fetched: bytes | None,
    coded: Sequence[str] = (),
    run: str | None = None,
) -> tuple[pq.ParquetFile, list[str]]:
    """Return an open file and the wanted columns that it has."""
    raw = checked(read_own(path) if fetched is None else fetched)
    # Most files are so small that a second thread would take longer than it saves.
    file = pq.ParquetFile(
        pa.BufferReader(raw), page_checksum_verification=True, read_dictionary=list(coded)
    )
    # Read the schema once: every access to `schema_arrow` converts it again.
    schema = file.schema_arrow
    origin = {
        name.decode("utf-8", "replace"): text.decode("utf-8", "replace")
        for name, text in (schema.metadata or {}).items()
    }
    version = origin.get("kilobit_schema", "?")
    if version not in _READABLE_VERSIONS:
        raise _VersionError(f"{path}: ledger schema {version}, this version reads {SCHEMA_VERSION}")
    # Checksums find damage, not a whole file in another's place. Older files do not say.
    if (named := origin.get("kilobit_file", path.name)) != path.name:
        raise ValueError(f"it was written as {named}")
    if run is not None and origin.get("kilobit_run", run) != run:
        raise ValueError("it was written by another run")
    return file, [name for name in wanted.names if name in schema.names]


class DamagedRunError(RuntimeError):
    """A finished part of a run is damaged; `kilobit resume` computes it again."""
