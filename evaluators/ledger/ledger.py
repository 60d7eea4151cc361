"""The ledger: tables of a run as a folder of Parquet parts.

A part appears whole or not at all: it is written under a unique temporary name in its folder and
renamed once. Readers match finished names only. A part's name states its content and the attempt
that wrote it, so writing the same rung again replaces the part and never duplicates a row, and no
attempt replaces a part of another attempt. `kilobit.evaluators.ledger.fencing` decides which
attempts' parts are accepted. Unknown values are null, never 0.

`Following` polls the tables of a growing ledger. A file is read once: snapshots never change, and a
part that its own attempt writes again is read again after its compaction. So a poll lists each
table and reads only new files.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from kilobit.evaluators.ledger.fencing import (
    Accepted,
    check_latest,
    part_file,
    parts_of,
    read_accepted,
)
from kilobit.evaluators.ledger.parts import (
    PART,
    TABLES,
    DamagedError,
    as_parquet,
    read_parquet,
    with_part,
)
from kilobit.evaluators.ledger.storage import Place, fetch, read_json, write_whole
from kilobit.search.records import Record

_Found = TypeVar("_Found")
_Record = TypeVar("_Record", bound=Record)
_Parts = dict[str, list[Record]]


class Ledger:
    """The tables of one ledger folder, open for reading or for writing by one attempt.

    `OSError` of the system (full disk, no permission) is passed on; the part is then absent, and
    the temporary file is removed if the system still allows it.

    Args:
        folder: the folder that holds a folder per table.
        attempt: the attempt that writes; None opens the ledger for reading only.
    """

    def __init__(self, folder: Place, attempt: int | None = None) -> None:
        self.folder, self.attempt = folder, attempt
        self._was_there = isinstance(folder, Path) and folder.exists()
        self._accepted = Accepted()
        self._part_names: dict[Place, frozenset[str]] = {}

    def part(self, table: str, name: str) -> Place:
        """Return the path of the part `name` of `table` as this attempt writes it."""
        assert self.attempt is not None, "this ledger is open for reading only"
        if not name or set(name) & set("/\\\0") or name in (".", ".."):
            raise ValueError(f"{name!r} is not a valid part name: it leaves the table's folder")
        return self.folder / table / part_file(name, self.attempt)

    @cached_property
    def run(self) -> str | None:
        """Id of the run that this ledger belongs to, None if it has none."""
        # Unreadable or none: then the commands that need it say so.
        with suppress(OSError, ValueError, AttributeError, TypeError):
            found: object = read_json(self.folder.parent / "run.json").get("id")
            return found if isinstance(found, str) else None
        return None

    def accepted(self) -> Accepted:
        """Return the newest list of accepted files."""
        self._accepted = read_accepted(self.folder, self._accepted)
        return self._accepted

    def write(self, kind: type[_Record], name: str, records: Sequence[_Record]) -> Place:
        """Write records as one part of their table and return its path.

        Raises:
            SupersededError: if a newer attempt has claimed the run.
            OSError: if the part can't be written.
        """
        path = self.part(kind.table, name)
        # Readers ignore parts written before the attempt's list exists.
        assert self._has_begun(), "this attempt has not begun"
        rows = [record.row() for record in records]
        content = pa.Table.from_pylist(rows, schema=TABLES[kind.table])
        self.write_file(path, with_part(content, name))
        return path

    def write_file(self, path: Place, content: pa.Table) -> None:
        """Write rows that include the column `part` to a file of this ledger.

        Raises:
            SupersededError: if a newer attempt has claimed the run.
            OSError: if the file can't be written.
        """
        assert self.attempt is not None
        if self._was_there and not self.folder.exists():
            # Else the write would begin a second run under the old name.
            reason = "the run's folder is gone: it was deleted, or renamed"
            raise FileNotFoundError(errno.ENOENT, reason, str(self.folder))
        encoded = as_parquet(content, path.name, self.run)
        check_latest(self.folder, self.attempt)
        write_whole(path, encoded)

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all accepted parts of `table` as one Arrow table, in the order of their names.

        Raises:
            ValueError: naming the file, if a part is not a readable Parquet file or has a newer
                schema.
        """
        schema = TABLES[table]
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])

        def look(accepted: Accepted) -> pa.Table:
            return self.collect(table, wanted, accepted).select(wanted.names)

        return self.settled(look)

    def records(self, kind: type[_Record], columns: Sequence[str] | None = None) -> list[_Record]:
        """Return the records of a table; fields that are not among `columns` are None."""
        return kind.all_of(self.read(kind.table, columns))

    def read_part(self, kind: type[_Record], name: str) -> list[_Record] | None:
        """Return the records of one accepted part, or None if there is none."""
        table = kind.table
        folder, wanted = self.folder / table, TABLES[table]

        def look(accepted: Accepted) -> list[_Record] | None:
            files = [part_file(name, accepted.attempt), accepted.parts.get(table, {}).get(name)]
            if accepted.attempt == 1:
                # The file name in schema version 1.
                files.append(f"{name}.parquet")
            for path in (folder / file for file in filter(None, files)):
                # On an object store a read reports a missing file with the same single request.
                if isinstance(path, Path) and not path.exists():
                    continue
                with suppress(FileNotFoundError):
                    return kind.all_of(read_parquet(path, wanted, run=self.run))
            for file in reversed(accepted.snapshots(table)):
                if name in self._names_in(folder / file):
                    content = read_parquet(folder / file, pa.schema([*wanted, PART]), run=self.run)
                    mine = content.filter(pc.equal(content["part"], name))
                    return kind.all_of(mine.select(wanted.names))
            return None

        return self.settled(look)

    def set_aside(self, path: Place) -> None:
        """Rename a damaged part so that the next attempt repeats its rung.

        Raises:
            SupersededError: if a newer attempt has claimed the run.
            OSError: if it can't be renamed.
        """
        assert self.attempt is not None
        check_latest(self.folder, self.attempt)
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f"{path.name}.damaged"))

    def settled(self, look: Callable[[Accepted], _Found]) -> _Found:
        """Return the result of `look`, repeated while the list of accepted files changes.

        Compaction deletes files only after a newer list names the files that replace them, so a
        result obtained under an unchanged list is consistent.

        Raises:
            ValueError: naming the file, if a file of an unchanged list is missing.
        """
        while True:
            accepted = self.accepted()
            try:
                found = look(accepted)
            except FileNotFoundError as error:
                if self.accepted() is accepted:
                    raise ValueError(f"{error.filename or error}: the file is gone") from error
                continue
            if self.accepted() is accepted:
                return found

    def parts(self, table: str, accepted: Accepted) -> dict[str, Place]:
        """Return the accepted files that hold a single part, by the part's name."""
        folder = self.folder / table
        parts = {n: folder / file for n, file in accepted.parts.get(table, {}).items()}
        return parts | parts_of(folder, accepted.attempt)

    def collect(
        self,
        table: str,
        wanted: pa.Schema,
        accepted: Accepted,
        on_damage: Callable[[DamagedError], None] | None = None,
    ) -> pa.Table:
        """Return the accepted rows of `table` with the column `part`, sorted by it.

        Args:
            table: the table.
            wanted: the columns to read.
            accepted: the list of accepted files.
            on_damage: called with the error of each damaged part, which is then left out; None
                raises the error.

        Raises:
            FileNotFoundError: if a newer list has replaced `accepted`.
            ValueError: naming the file, if one is damaged and `on_damage` is None, or if a snapshot
                is damaged.
        """
        folder, named = self.folder / table, pa.schema([*wanted, PART])
        parts = self.parts(table, accepted)
        pieces, fetched = [], fetch(parts.values())
        for name, path in sorted(parts.items()):
            try:
                content = read_parquet(path, wanted, fetched.pop(path, None), self.run)
                pieces.append(with_part(content, name))
            except DamagedError as error:
                if on_damage is None:
                    raise
                on_damage(error)
        seen = set(parts)
        for file in reversed(accepted.snapshots(table)):
            content = read_parquet(folder / file, named, run=self.run)
            names = set(content["part"].unique().to_pylist())
            if names & seen:
                newer = pc.is_in(content["part"], pa.array(sorted(seen), pa.string()))
                content = content.filter(pc.invert(newer))
            seen |= names
            pieces.append(content)
        if not pieces:
            return named.empty_table()
        whole = pa.concat_tables(pieces)
        if accepted.snapshots(table):
            whole = whole.take(pc.sort_indices(whole["part"]))
        return whole

    def _has_begun(self) -> bool:
        # Lists are never withdrawn, so in most calls the last one read is enough.
        mine = self.attempt or 0
        return mine == 1 or self._accepted.attempt >= mine or self.accepted().attempt >= mine

    def _names_in(self, path: Place) -> frozenset[str]:
        if path not in self._part_names:
            content = read_parquet(path, pa.schema([PART]), run=self.run)
            self._part_names[path] = frozenset(content["part"].to_pylist())
        return self._part_names[path]


class Following:
    """Records of some tables of a growing ledger.

    Args:
        ledger: the ledger, which is only read.
        columns: the wanted columns of each kind of record.
    """

    def __init__(self, ledger: Ledger, columns: Mapping[type[Record], Sequence[str]]) -> None:
        self._ledger = ledger
        self._wanted = {
            kind: pa.schema([TABLES[kind.table].field(name) for name in names])
            for kind, names in columns.items()
        }
        # Records by part, of every accepted file.
        self._files: dict[type[Record], dict[Place, _Parts]] = {kind: {} for kind in columns}
        self._records: dict[type[Record], list[Record]] = {kind: [] for kind in columns}

    def records(self, kind: type[_Record]) -> list[_Record]:
        """Return the records of a table, as of the last look."""
        return cast("list[_Record]", self._records[kind])

    def look(self) -> bool:
        """Read new files, and return whether anything has changed.

        Raises:
            ValueError: naming the file, if one is damaged or gone.
            StorageError: if a store can't be read.
        """
        found = self._ledger.settled(self._look)
        changed = [kind for kind in found if found[kind].keys() != self._files[kind].keys()]
        self._files = found
        for kind in changed:
            parts: _Parts = {}
            # Later files replace earlier ones, and a part's own file its rows of a snapshot.
            for content in found[kind].values():
                parts |= content
            self._records[kind] = [one for name in sorted(parts) for one in parts[name]]
        return bool(changed)

    def _look(self, accepted: Accepted) -> dict[type[Record], dict[Place, _Parts]]:
        return {kind: self._look_at(kind, accepted) for kind in self._wanted}

    def _look_at(self, kind: type[Record], accepted: Accepted) -> dict[Place, _Parts]:
        wanted, known = self._wanted[kind], self._files[kind]
        folder, named = self._ledger.folder / kind.table, pa.schema([*wanted, PART])
        parts, found = self._ledger.parts(kind.table, accepted), dict[Place, _Parts]()
        for path in (folder / file for file in accepted.snapshots(kind.table)):
            found[path] = known.get(path) or _by_part(
                kind, read_parquet(path, named, run=self._ledger.run)
            )
        fetched = fetch([path for path in parts.values() if path not in known])
        for name, path in parts.items():
            found[path] = known.get(path) or {
                name: kind.all_of(read_parquet(path, wanted, fetched.get(path), self._ledger.run))
            }
        return found


def _by_part(kind: type[Record], content: pa.Table) -> _Parts:
    parts: _Parts = {}
    for row in content.to_pylist():
        parts.setdefault(row.pop("part"), []).append(kind.of(row))
    return parts
