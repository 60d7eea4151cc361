"""Input files of a run or a data set, listed once so that every pass reads the same snapshot."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluators.dataset import DATASET_TABLES, files_of
from evaluators.fence import Accepted
from evaluators.ledger import Ledger
from evaluators.parts import SCHEMA_VERSION
from evaluators.storage import Place
from evaluators.tables import TABLES
from evaluators.units import File, Unit, file_at, units_of

# Large tables whose parts compaction never rewrites, so they are read in place.
_IN_PARTS = ("predictions", "programs")


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
            copied = ledger.settled(partial(_collected, ledger, table))
            files = [copy_of(copied, scratch / f"{source}-{table}.parquet")] if len(copied) else []
        found[table] = units_of(source, table, files, ledger.folder)
    return found


def _collected(ledger: Ledger, table: str, accepted: Accepted) -> pa.Table:
    return ledger.collect(table, TABLES[table], accepted)


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
    return file_at(path)


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
