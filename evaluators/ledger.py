"""The ledger: tables of a run as a folder of Parquet parts.

A part appears whole or not at all: it is written under a unique temporary name beside its place and
renamed once. Readers match finished names only. A part's name says what it holds, so writing the
same rung again replaces it and never doubles a row. Unknown values are null, never 0.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = "1"

_TIME = pa.timestamp("us", tz="UTC")
TABLES: dict[str, pa.Schema] = {
    "candidates": pa.schema(
        [
            ("candidate", pa.string()),
            ("task", pa.string()),
            ("model", pa.string()),
            ("regime", pa.string()),
            ("family", pa.string()),
            ("spec", pa.string()),
            ("seed", pa.int64()),
            ("estimated_bits", pa.int64()),
            ("parent", pa.string()),
            ("position", pa.int64()),
        ]
    ),
    "rungs": pa.schema(
        [
            ("candidate", pa.string()),
            ("rung", pa.int32()),
            ("split", pa.string()),
            ("train_steps", pa.int64()),
            ("num_examples", pa.int64()),
            ("score", pa.float64()),
            ("lower", pa.float64()),
            ("upper", pa.float64()),
            ("program_bits", pa.int64()),
            ("payload_bits", pa.int64()),
            ("program", pa.string()),
            ("train_loss", pa.float64()),
            ("seconds", pa.float64()),
            ("train_s", pa.float64()),
            ("generate_s", pa.float64()),
            ("train_tokens", pa.int64()),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("base_digest", pa.string()),
            ("worker", pa.string()),
            ("attempt", pa.int32()),
            ("finished_at", _TIME),
            ("error", pa.string()),
            ("excess_bits", pa.float64()),
        ]
    ),
    "predictions": pa.schema(
        [
            ("candidate", pa.string()),
            ("rung", pa.int32()),
            ("split", pa.string()),
            ("example", pa.string()),
            ("output", pa.string()),
            ("score", pa.float64()),
        ]
    ),
    "decisions": pa.schema(
        [
            ("candidate", pa.string()),
            ("rung", pa.int32()),
            ("decision", pa.string()),
            ("reason", pa.string()),
            ("compared_with", pa.list_(pa.string())),
            ("attempt", pa.int32()),
            ("decided_at", _TIME),
        ]
    ),
    "programs": pa.schema(
        [
            ("candidate", pa.string()),
            ("rung", pa.int32()),
            ("program", pa.string()),
            ("program_bits", pa.int64()),
            ("payload_bits", pa.int64()),
            ("codecs", pa.string()),
            ("recipe", pa.string()),
            ("script", pa.binary()),
            ("payload", pa.binary()),
            ("payload_file", pa.string()),
        ]
    ),
    "verifications": pa.schema(
        [
            ("program", pa.string()),
            ("candidate", pa.string()),
            ("split", pa.string()),
            ("num_examples", pa.int64()),
            ("num_equal", pa.int64()),
            ("score", pa.float64()),
            ("verified", pa.bool_()),
            ("verified_on", pa.string()),
            ("error", pa.string()),
            ("seconds", pa.float64()),
            ("finished_at", _TIME),
        ]
    ),
    "openings": pa.schema(
        [
            ("opening", pa.string()),
            ("sealed_digest", pa.string()),
            ("num_examples", pa.int64()),
            ("selection", pa.list_(pa.string())),
            ("selection_digest", pa.string()),
            ("num_programs", pa.int64()),
            ("level", pa.float64()),
            ("targets", pa.list_(pa.float64())),
            ("repeated", pa.bool_()),
            ("attempt", pa.int32()),
            ("opened_at", _TIME),
        ]
    ),
    "certificates": pa.schema(
        [
            ("program", pa.string()),
            ("candidate", pa.string()),
            ("split", pa.string()),
            ("num_examples", pa.int64()),
            ("score", pa.float64()),
            ("lower", pa.float64()),
            ("upper", pa.float64()),
            ("level", pa.float64()),
            ("num_programs", pa.int64()),
            ("opening", pa.string()),
            ("repeated", pa.bool_()),
            ("base_digest", pa.string()),
            ("error", pa.string()),
            ("finished_at", _TIME),
        ]
    ),
    "workers": pa.schema(
        [
            ("worker", pa.string()),
            ("model", pa.string()),
            ("base_digest", pa.string()),
            ("num_parameters", pa.int64()),
            ("load_s", pa.float64()),
            ("host", pa.string()),
            ("pid", pa.int64()),
            ("versions", pa.string()),
            ("started_at", _TIME),
        ]
    ),
}


class Ledger:
    """The tables below one folder.

    Raises `OSError` from the system as it is (full disk, no permission); the part is then absent
    and no temporary file is left behind where the system still allows removing it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def part(self, table: str, name: str) -> Path:
        """Return where the part `name` of `table` lies once it is finished."""
        return self.folder / table / f"{name}.parquet"

    def write(self, table: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write `rows` as one part and return its path; missing columns become null.

        Raises:
            ValueError: if a row has a column that the table lacks.
            OSError: if the part can't be written.
        """
        schema = TABLES[table]
        unknown = {key for row in rows for key in row} - set(schema.names)
        if unknown:
            raise ValueError(f"table {table} has no column {', '.join(sorted(unknown))}")
        stamped = schema.with_metadata({"kilobit_schema": SCHEMA_VERSION})
        content = pa.Table.from_pylist([dict(row) for row in rows], schema=stamped)
        sink = pa.BufferOutputStream()
        pq.write_table(content, sink, compression="zstd")
        path = self.part(table, name)
        write_whole(path, sink.getvalue().to_pybytes())
        return path

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all finished parts of `table` as one Arrow table, in the order of their names.

        Raises:
            ValueError: naming the file, if a part is no readable Parquet file or of a newer schema.
        """
        schema = TABLES[table]
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        parts = [
            self._read_part(path, wanted)
            for path in sorted((self.folder / table).glob("*.parquet"))
        ]
        return pa.concat_tables(parts) if parts else wanted.empty_table()

    def rows(self, table: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return `read(table, columns)` as dictionaries."""
        rows: list[dict[str, Any]] = self.read(table, columns).to_pylist()
        return rows

    def read_part(self, table: str, name: str) -> list[dict[str, Any]] | None:
        """Return the rows of one part, or None if it does not exist."""
        path = self.part(table, name)
        if not path.exists():
            return None
        rows: list[dict[str, Any]] = self._read_part(path, TABLES[table]).to_pylist()
        return rows

    def _read_part(self, path: Path, wanted: pa.Schema) -> pa.Table:
        try:
            file = pq.ParquetFile(path)
            version = (file.schema_arrow.metadata or {}).get(b"kilobit_schema", b"?").decode()
            if version != SCHEMA_VERSION:
                raise ValueError(f"ledger schema {version}, this version reads {SCHEMA_VERSION}")
            present = [name for name in wanted.names if name in file.schema_arrow.names]
            content = file.read(columns=present)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise ValueError(f"{path}: not a part of a ledger: {error}") from error
        for name in wanted.names:
            # A column that was added later is null in older parts.
            if name not in present:
                content = content.append_column(
                    name, pa.nulls(len(content), wanted.field(name).type)
                )
        return content.select(wanted.names).cast(wanted)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears complete or not at all.

    Raises:
        OSError: from the system; the old file, if any, is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
