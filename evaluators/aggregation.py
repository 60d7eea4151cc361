"""Merging of several runs and data sets into one data set, in bounded memory.

The input files are listed first, and small tables of running searches are copied, so that both
passes over a source read the same rows: one pass finds duplicates, one writes the rows that remain.
The data set is an atomic folder: written beside its path and renamed at the end.
"""

import os
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from evaluators.beside import publish
from evaluators.claims import CLAIMS, Shared
from evaluators.dataset import (
    DATASET_TABLES,
    EMPTY,
    MANIFEST,
    OWN,
    DatasetSource,
    file_name,
    manifest,
    schema_of,
)
from evaluators.duplicates import Duplicates, find_duplicates
from evaluators.hashes import hash_text
from evaluators.readings import copy_of
from evaluators.staying import Staying, parquet_writer
from evaluators.storage import write_whole
from evaluators.units import File, Unit, in_order, units_of

Advance = Callable[[int], None]


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
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
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
        for place, unit in enumerate(units):
            name = self.reads[unit.source].about.name
            numbers[name] = numbers.get(name, -1) + 1
            goes = None if duplicates is None else duplicates.of_unit(place)
            path = self.made / table / file_name(name, numbers[name])
            writers.append(Staying(unit, name, path, goes))
        (self.made / table).mkdir()
        for writer, (read, kept) in zip(
            writers, in_order(pool, Staying.write, writers), strict=True
        ):
            key = (writer.unit.source, table)
            self.rows[key] = self.rows.get(key, 0) + kept
            self.merged.read[table] = self.merged.read.get(table, 0) + read
            self.merged.kept[table] = self.merged.kept.get(table, 0) + kept
            self.advance(writer.unit.num_bytes)
        if not any((self.made / table).iterdir()):
            # An empty file, so that a glob over the files of a table matches in every data set.
            parquet_writer(self.made / table / EMPTY, schema_of(table), table).close()

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
        place = differences.schema.get_field_index("kept_run")
        rows = differences.set_column(place, "kept_run", name)
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
