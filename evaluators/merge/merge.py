"""Merging of several runs and data sets into one data set, in bounded memory.

The input files are listed first, and small tables of running searches are copied, so that both
passes over a source read the same rows: one pass finds duplicates, one writes the rows that remain.
The data set is an atomic folder: written beside its path and renamed at the end.

Write the rows of a unit that survive deduplication to one file of a data set.
"""

import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kilobit.evaluators.cpus_and_memory import cpus
from kilobit.evaluators.ledger.parts import PART, UNSEALED, DamagedError, seal
from kilobit.evaluators.ledger.storage import read_own, write_whole
from kilobit.evaluators.merge.atomic_folder import publish
from kilobit.evaluators.merge.dataset import (
    CLAIMS,
    DATASET_TABLES,
    EMPTY,
    MANIFEST,
    OWN,
    RUN,
    DatasetSource,
    Shared,
    file_name,
    manifest,
    schema_of,
)
from kilobit.evaluators.merge.dedup import Duplicates, Marks, find_duplicates, hash_text
from kilobit.evaluators.merge.read_plan import File, Unit, Waiting, copy_of, in_order, units_of

Advance = Callable[[int], None]
_GROUP_ROWS = 1 << 17
_GROUP_BYTES = 1 << 26
_PAYLOAD = re.compile(r"payloads/[0-9a-f]{8,64}\.bin")
_FEW_VALUES = {
    "candidates": ["task", "model", "regime", "family"],
    "predictions": ["candidate", "rung", "split", "example"],
    "rungs": ["rung", "split", "base_digest", "worker", "error", "verdict"],
}


@dataclass(frozen=True)
class Read:
    """One source with the files to read.

    Attributes:
        about: its entry in the manifest of the data set; its name is unique there.
        conditions: what a rung and an example mean in it; equal for equal ladders and tasks.
        units: its rows by table.
    """

    about: DatasetSource
    conditions: str
    units: Mapping[str, Sequence[Unit]]


@dataclass
class Merged:
    """Result of a merge: the sources, and numbers of rows.

    Attributes:
        sources: the sources of the data set.
        read: rows that were read, by table.
        kept: rows that were written, by table.
        conflicts: new rows of the table `conflicts`, by the table that they concern.
    """

    sources: list[DatasetSource]
    read: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    conflicts: dict[str, int] = field(default_factory=dict)


def merge(reads: Sequence[Read], out: Path, scratch: Path, advance: Advance) -> Merged:
    """Write a data set of all sources; of equal claims only the first source's row is kept.

    Args:
        reads: the sources, in the order in which their rows have precedence.
        out: folder of the data set; a data set that is there is replaced, other files in the
            folder stay.
        scratch: an empty folder on the same file system.
        advance: called with the bytes of each file that was read; each file is read twice.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
        OSError: naming the file, if the data set can't be written.
    """
    made = scratch / "made"
    made.mkdir()
    merging = _Merging(reads, made, scratch, advance, Merged([]))
    with ThreadPoolExecutor(min(4, cpus())) as pool:
        # Conflicts last: by then all of them are known.
        for table in DATASET_TABLES:
            merging.table(table, pool)
    merging.merged.sources = _made_of(reads, merging.rows)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_whole(made / MANIFEST, manifest(merging.merged.sources, now))
    publish(made, out, OWN)
    return merging.merged


@dataclass
class _Merging:
    """State of a merge that writes one table after the other."""

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
        for position, unit in enumerate(units):
            name = self.reads[unit.source].about.name
            numbers[name] = numbers.get(name, -1) + 1
            goes = None if duplicates is None else duplicates.of_unit(position)
            path = self.made / table / file_name(name, numbers[name])
            writers.append(Survivors(unit, name, path, goes))
        (self.made / table).mkdir()
        for writer, (read, kept) in zip(
            writers, in_order(pool, Survivors.write, writers), strict=True
        ):
            key = (writer.unit.source, table)
            self.rows[key] = self.rows.get(key, 0) + kept
            self.merged.read[table] = self.merged.read.get(table, 0) + read
            self.merged.kept[table] = self.merged.kept.get(table, 0) + kept
            self.advance(writer.unit.num_bytes)
        if not any((self.made / table).iterdir()):
            # An empty file, so that a glob over the files of a table matches in every data set.
            with parquet_writer(self.made / table / EMPTY, schema_of(table), table):
                pass

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
        """Write conflicts of rows of source `other` with kept rows of source `kept` to a file."""
        name = pa.repeat(self.reads[kept].about.name, len(differences))
        position = differences.schema.get_field_index("kept_run")
        rows = differences.set_column(position, "kept_run", name)
        path = self.scratch / f"conflicts-{uuid.uuid4().hex}.parquet"
        self.copies.setdefault(other, []).append(copy_of(rows, path))

    def _found_conflicts(self) -> list[Unit]:
        # New conflicts follow those read from the sources, which take precedence.
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
    """Return the sources with their row counts, each run once: its version with most attempts."""
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
class Survivors:
    """The surviving rows of a unit and the file they are written to.

    Attributes:
        unit: all rows of the unit.
        run: their value in the column `run`.
        path: the output file, in the folder of its table in a data set.
        goes: a mark per row, True if the row is dropped; None if all rows survive.
    """

    unit: Unit
    run: str
    path: Path
    goes: Marks | None

    def write(self) -> tuple[int, int]:
        """Write the surviving rows, if any; return the number of rows read and of rows kept.

        Raises:
            ValueError: naming the file, if one is damaged, of a newer version, or changed
                meanwhile.
            OSError: if one can't be read or written.
        """
        schema = schema_of(self.unit.table)
        read = kept = 0
        waiting = Waiting(_GROUP_ROWS, _GROUP_BYTES)
        writer: pq.ParquetWriter | None = None
        with ExitStack() as finished:
            for batch in self.unit.batches(schema.names[:-1]):
                stays = self._of_those_that_stay(batch, read)
                read, kept = read + len(batch), kept + len(stays)
                if not len(stays):
                    continue
                self._copy_payloads(stays)
                if writer is None:
                    made = parquet_writer(self.path, schema, self.unit.table)
                    writer = finished.enter_context(made)
                if waiting.add(stays):
                    writer.write_table(pa.Table.from_batches(waiting.taken(), schema))
            if self.goes is not None and read != len(self.goes):
                raise ValueError(f"{self.unit.files[0].path}: the file changed while it was read")
            if writer is not None and waiting.batches:
                writer.write_table(pa.Table.from_batches(waiting.taken(), schema))
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
                raise DamagedError(self.unit.root / "programs", f"{name!r} is not a payload file")
            to = self.path.parent.parent / name
            if not to.exists():
                try:
                    write_whole(to, read_own(path))
                except FileNotFoundError as error:
                    raise DamagedError(path, "the payload of a program is missing") from error


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, table: str) -> Iterator[pq.ParquetWriter]:
    """Yield a Parquet writer for one file of a table of a data set; the end seals the file."""
    with pq.ParquetWriter(
        path,
        schema.with_metadata(UNSEALED),
        compression="zstd",
        use_dictionary=[*_FEW_VALUES.get(table, ()), PART.name, RUN.name],
        write_page_checksum=True,
    ) as writer:
        yield writer
    seal(path)
