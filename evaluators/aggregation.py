"""Several runs and data sets become one data set, in memory that does not grow with them.

What is read is listed first, and small tables of running searches are copied, so that both readings
of a source see the same rows: one that finds what is there twice, and one that writes what stays.
The data set is written beside its place and renamed at the end, so it is there whole or not at all.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluators.claims import CLAIMS, Shared
from evaluators.dataset import (
    DATASET_TABLES,
    EMPTY,
    MANIFEST,
    RUN,
    DatasetSource,
    file_name,
    files_of,
    manifest,
    schema_of,
)
from evaluators.duplicates import Duplicates, Marks, find_duplicates
from evaluators.fence import Accepted
from evaluators.hashes import hash_text
from evaluators.ledger import Ledger
from evaluators.parts import PART, SCHEMA_VERSION, DamagedError
from evaluators.storage import Place, write_whole
from evaluators.tables import TABLES
from evaluators.units import File, Unit, file_at, in_order, units_of

# These are never written again by a search that goes on, and they are the large ones.
_IN_PARTS = ("predictions", "programs")
_GROUP_ROWS = 1 << 17
_PAYLOAD = re.compile(r"payloads/[0-9a-f]{8,64}\.bin")
_FEW_VALUES = {
    "candidates": ["task", "model", "regime", "family"],
    "predictions": ["candidate", "rung", "split", "example"],
    "rungs": ["rung", "split", "base_digest", "worker", "error", "verdict"],
}

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Read:
    """One source as it is to be read.

    Attributes:
        about: what the data set will say of it; its name is not taken by another run.
        conditions: what a rung and an example mean in it; equal for equal ladders and tasks.
        units: its rows by table.
    """

    about: DatasetSource
    conditions: str
    units: Mapping[str, Sequence[Unit]]


@dataclass
class Merged:
    """What became of the rows.

    Attributes:
        sources: what the data set was made of.
        read: rows that were read, by table.
        kept: rows that are in it, by table.
        conflicts: rows of the table `conflicts` that were not there before, by table that they
            are about.
    """

    sources: list[DatasetSource]
    read: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    conflicts: dict[str, int] = field(default_factory=dict)


def units_of_ledger(source: int, ledger: Ledger, scratch: Path) -> dict[str, list[Unit]]:
    """Return what is to be read of a run's ledger.

    Args:
        source: its number among all sources.
        ledger: the ledger.
        scratch: where its small tables are copied.

    Raises:
        ValueError: naming the file, if one is damaged, gone, or of a newer version.
        OSError: if it can't be read, or the copy not written.
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
    """Return the files of a table of which each holds one part; None if some hold more."""
    accepted = ledger.accepted()
    if accepted.snapshots(table):
        return None
    parts = sorted(ledger.parts(table, accepted).items())
    try:
        return [File(path, path.stat().st_size, name) for name, path in parts]
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename or error}: the file is gone") from error


def copy_of(content: pa.Table, path: Path) -> File:
    """Write rows with their column `part` as a file that can be read again."""
    content = content.replace_schema_metadata({"kilobit_schema": SCHEMA_VERSION})
    pq.write_table(content, path, compression="zstd")
    return file_at(path)


def units_of_dataset(
    source: int, name: str, folder: Place, renamed: Mapping[str, str]
) -> dict[str, list[Unit]]:
    """Return what is to be read of one run of a data set.

    Args:
        source: its number among all sources.
        name: its name in that data set.
        folder: the data set.
        renamed: names of runs there, and what they are called now.

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
    """Return the bytes of a source's files, and a digest of their names and sizes."""
    files = [file for each in units.values() for unit in each for file in unit.files]
    lines = sorted(f"{file.path.parent.name}/{file.path.name} {file.num_bytes}" for file in files)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return sum(file.num_bytes for file in files), digest


@contextmanager
def place_beside(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, which is gone at the end.

    Folders of the same kind whose makers were killed are taken away.

    Raises:
        OSError: naming `out`, if what is written there has no room; other errors as they are.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in out.parent.glob(f".{glob_escaped(out.name)}.*.tmp"):
        _take_away_if_left(path)
    scratch = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    scratch.mkdir(mode=0o777)
    try:
        with (scratch / "lock").open("wb") as lock:
            # It ends with this process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield scratch
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        why = f"{os.strerror(error.errno)}; nothing was written"
        raise OSError(error.errno, why, str(out)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def glob_escaped(name: str) -> str:
    """Return a name as a glob that matches nothing else."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _take_away_if_left(path: Path) -> None:
    with suppress(OSError), (path / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)


def merge(reads: Sequence[Read], out: Path, scratch: Path, advance: Advance) -> Merged:
    """Write a data set of all sources; of rows that claim the same the first source's stays.

    Args:
        reads: the sources, in the order in which their rows have precedence.
        out: where the data set will lie; what is there is replaced.
        scratch: an empty folder on the same file system.
        advance: takes bytes of files that were read; each file is read twice.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
        OSError: naming the file, if the data set can't be written.
    """
    made = scratch / "made"
    made.mkdir()
    merging = _Merging(reads, made, scratch, advance, Merged([]))
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        # Conflicts last: by then all of them are known.
        for table in DATASET_TABLES:
            merging.table(table, pool)
    merging.merged.sources = _made_of(reads, merging.rows)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_whole(made / MANIFEST, manifest(merging.merged.sources, now))
    _publish(made, out)
    return merging.merged


@dataclass
class _Merging:
    """The tables of a data set as they come about, one after the other."""

    reads: Sequence[Read]
    made: Path
    scratch: Path
    advance: Advance
    merged: Merged
    rows: dict[tuple[int, str], int] = field(default_factory=dict)
    found: dict[int, list[pa.Table]] = field(default_factory=dict)
    copies: dict[int, list[File]] = field(default_factory=dict)

    def table(self, table: str, pool: Executor) -> None:
        units = [unit for read in self.reads for unit in read.units.get(table, ())]
        if table == "conflicts":
            units += self._found_conflicts()
        duplicates = self._duplicates(table, units, pool)
        numbers: dict[str, int] = {}
        writers = []
        for place, unit in enumerate(units):
            name = self.reads[unit.source].about.name
            numbers[name] = numbers.get(name, -1) + 1
            goes = None if duplicates is None else duplicates.of_unit(place)
            path = self.made / table / file_name(name, numbers[name])
            writers.append(_Writer(unit, name, path, goes))
        (self.made / table).mkdir()
        for writer, (read, kept) in zip(
            writers, in_order(pool, _Writer.write, writers), strict=True
        ):
            key = (writer.unit.source, table)
            self.rows[key] = self.rows.get(key, 0) + kept
            self.merged.read[table] = self.merged.read.get(table, 0) + read
            self.merged.kept[table] = self.merged.kept.get(table, 0) + kept
            self.advance(writer.unit.num_bytes)
        if not any((self.made / table).iterdir()):
            # Globs over the files of a table find one in every data set.
            _parquet_writer(self.made / table / EMPTY, schema_of(table), table).close()

    def _duplicates(self, table: str, units: Sequence[Unit], pool: Executor) -> Duplicates | None:
        if len({unit.source for unit in units}) < 2:
            self.advance(sum(unit.num_bytes for unit in units))
            return None
        scratch = self.scratch / f"of-{table}"
        scratch.mkdir()
        claim = CLAIMS[table]
        shared = [hash_text(_shared(read, claim.shared)) for read in self.reads]
        return find_duplicates(units, claim, shared, scratch, pool, self._note, self.advance)

    def _note(self, kept: int, other: int, differences: pa.Table) -> None:
        """Keep conflicts of a row of source `other` with one of source `kept`."""
        name = pa.repeat(self.reads[kept].about.name, len(differences))
        place = differences.schema.get_field_index("kept_run")
        rows = differences.set_column(place, "kept_run", name)
        path = self.scratch / f"conflicts-{uuid.uuid4().hex}.parquet"
        self.copies.setdefault(other, []).append(copy_of(rows, path))

    def _found_conflicts(self) -> list[Unit]:
        # After those that were known before, which have precedence as sources do.
        return [
            unit
            for source, files in sorted(self.copies.items())
            for unit in units_of(source, "conflicts", files, self.scratch)
        ]


def _shared(read: Read, shared: Shared) -> str:
    if shared is Shared.NOTHING:
        return ""
    return read.conditions if shared is Shared.CONDITIONS else read.about.identity


def _made_of(reads: Sequence[Read], rows: Mapping[tuple[int, str], int]) -> list[DatasetSource]:
    """Return the sources with their rows, each run once: as it was when it had most attempts."""
    found: dict[str, DatasetSource] = {}
    kept: dict[str, Counter[str]] = {}
    for number, read in enumerate(reads):
        name = read.about.identity
        known = found.setdefault(name, read.about)
        if (read.about.attempts or 0) >= (known.attempts or 0):
            found[name] = read.about
        own = {table: rows.get((number, table), 0) for table in DATASET_TABLES}
        kept.setdefault(name, Counter()).update(own)
    return [
        about.model_copy(update={"rows": {t: n for t, n in kept[name].items() if n}})
        for name, about in found.items()
    ]


@dataclass(frozen=True)
class _Writer:
    """Writes the rows of a unit that stay, if there are any."""

    unit: Unit
    run: str
    path: Path
    goes: Marks | None

    def write(self) -> tuple[int, int]:
        """Return how many rows there were, and how many stay."""
        schema = schema_of(self.unit.table)
        read = kept = 0
        waiting: list[pa.RecordBatch] = []
        writer: pq.ParquetWriter | None = None
        try:
            for batch in self.unit.batches(schema.names[:-1]):
                stays = self._of_those_that_stay(batch, read)
                read, kept = read + len(batch), kept + len(stays)
                if not len(stays):
                    continue
                waiting.append(stays)
                self._copy_payloads(stays)
                writer = writer or _parquet_writer(self.path, schema, self.unit.table)
                if sum(map(len, waiting)) >= _GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(waiting, schema))
                    waiting = []
            if self.goes is not None and read != len(self.goes):
                raise ValueError(f"{self.unit.files[0].path}: it was changed while it was read")
            if writer is not None and waiting:
                writer.write_table(pa.Table.from_batches(waiting, schema))
        finally:
            if writer is not None:
                writer.close()
        return read, kept

    def _of_those_that_stay(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        if self.goes is not None:
            goes = self.goes[first : first + len(batch)]
            if goes.any():
                batch = batch.filter(pa.array(~goes))
        return batch.append_column(RUN, pa.repeat(pa.scalar(self.run), len(batch)))

    def _copy_payloads(self, batch: pa.RecordBatch) -> None:
        if self.unit.table != "programs":
            return
        for name in batch.column("payload_file").drop_null().unique().to_pylist():
            path = self.unit.root / name
            if not _PAYLOAD.fullmatch(name):
                raise DamagedError(self.unit.root / "programs", f"{name!r} is no payload's file")
            to = self.path.parent.parent / name
            if not to.exists():
                try:
                    write_whole(to, path.read_bytes())
                except FileNotFoundError as error:
                    raise DamagedError(path, "the payload of a program is gone") from error


def _parquet_writer(path: Path, schema: pa.Schema, table: str) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema.with_metadata({"kilobit_schema": SCHEMA_VERSION}),
        compression="zstd",
        use_dictionary=[*_FEW_VALUES.get(table, ()), PART.name, RUN.name],
        write_page_checksum=True,
    )


def _publish(made: Path, out: Path) -> None:
    """Put a finished folder in its place."""
    for path in [*made.rglob("*"), made]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if not out.exists() or not any(out.iterdir()):
        made.rename(out)
        return
    # Two steps, because no call of every file system replaces a folder that holds something.
    before = out.with_name(f".{out.name}.{uuid.uuid4().hex}.before")
    out.rename(before)
    made.rename(out)
    shutil.rmtree(before, ignore_errors=True)
