"""One file of a ledger: rows of one table as Parquet, each with the name of its part."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


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


def read_parquet(path: Path, wanted: pa.Schema) -> pa.Table:
    """Return the columns `wanted` of one file.

    Raises:
        FileNotFoundError: if there is none.
        DamagedError: if it is no readable Parquet file.
        ValueError: naming the file, if it is of a newer schema.
    """
    try:
        # A file is read by one thread: most are so small that handing them over costs more.
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        # Each look at a file's schema makes it anew.
        schema = file.schema_arrow
        version = (schema.metadata or {}).get(b"kilobit_schema", b"?").decode()
        present = [name for name in wanted.names if name in schema.names]
        content = file.read(columns=present, use_threads=False)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DamagedError(path, f"not a part of a ledger: {error}") from error
    if version not in _READABLE_VERSIONS:
        raise ValueError(f"{path}: ledger schema {version}, this version reads {SCHEMA_VERSION}")
    for name in wanted.names:
        # A column that was added later is null in older parts.
        if name not in present:
            content = content.append_column(name, pa.nulls(len(content), wanted.field(name).type))
    return content.select(wanted.names).cast(wanted)
