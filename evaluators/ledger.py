"""The ledger: tables of a run as a folder of Parquet parts.

A part appears whole or not at all: it is written under a unique temporary name beside its place and
renamed once. Readers match finished names only. A part's name says what it holds and which attempt
at the run wrote it, so writing the same rung again replaces it and never doubles a row, and nobody
replaces what another attempt wrote. Which attempts' parts count is said in `evaluators.fence`.
Unknown values are null, never 0.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from evaluators.fence import Accepted, check_latest, part_file, parts_of, read_accepted
from evaluators.parts import PART, DamagedError, as_parquet, read_parquet, with_part
from evaluators.storage import Place, fetch, write_whole
from evaluators.tables import TABLES

_Found = TypeVar("_Found")


class Ledger:
    """The tables below one folder.

    Raises `OSError` from the system as it is (full disk, no permission); the part is then absent
    and no temporary file is left behind where the system still allows removing it.

    Args:
        folder: where the tables lie.
        attempt: the attempt that writes; None to read only.
    """

    def __init__(self, folder: Place, attempt: int | None = None) -> None:
        self.folder, self.attempt = folder, attempt
        self._accepted = Accepted()
        self._part_names: dict[Place, frozenset[str]] = {}

    def part(self, table: str, name: str) -> Place:
        """Return where the part `name` of `table` lies once this attempt has finished it."""
        assert self.attempt is not None, "this ledger is open for reading only"
        if not name or set(name) & set("/\\\0") or name in (".", ".."):
            raise ValueError(f"{name!r} is no name of a part: it would lie elsewhere")
        return self.folder / table / part_file(name, self.attempt)

    def accepted(self) -> Accepted:
        """Return the list of accepted files that counts now."""
        self._accepted = read_accepted(self.folder, self._accepted)
        return self._accepted

    def write(self, table: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Place:
        """Write `rows` as one part and return its path; missing columns become null.

        Raises:
            ValueError: if a row has a column that the table lacks.
            SupersededError: if a newer attempt was claimed.
            OSError: if the part can't be written.
        """
        schema = TABLES[table]
        unknown = {key for row in rows for key in row} - set(schema.names)
        if unknown:
            raise ValueError(f"table {table} has no column {', '.join(sorted(unknown))}")
        path = self.part(table, name)
        # Readers would never see it.
        assert self._has_begun(), "not begun"
        content = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
        self.write_file(path, with_part(content, name))
        return path

    def write_file(self, path: Place, content: pa.Table) -> None:
        """Write rows with their column `part` as a file of this ledger.

        Raises:
            SupersededError: if a newer attempt was claimed.
            OSError: if the file can't be written.
        """
        assert self.attempt is not None
        encoded = as_parquet(content)
        check_latest(self.folder, self.attempt)
        write_whole(path, encoded)

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all accepted parts of `table` as one Arrow table, in the order of their names.

        Raises:
            ValueError: naming the file, if a part is no readable Parquet file or of a newer schema.
        """
        schema = TABLES[table]
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])

        def look(accepted: Accepted) -> pa.Table:
            return self.collect(table, wanted, accepted).select(wanted.names)

        return self.settled(look)

    def rows(self, table: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return `read(table, columns)` as dictionaries."""
        rows: list[dict[str, Any]] = self.read(table, columns).to_pylist()
        return rows

    def read_part(self, table: str, name: str) -> list[dict[str, Any]] | None:
        """Return the rows of one accepted part, or None if there is none."""
        folder, wanted = self.folder / table, TABLES[table]

        def look(accepted: Accepted) -> list[dict[str, Any]] | None:
            files = [part_file(name, accepted.attempt), accepted.parts.get(table, {}).get(name)]
            if accepted.attempt == 1:
                # As version 1 called it.
                files.append(f"{name}.parquet")
            for path in (folder / file for file in filter(None, files)):
                # On a store the attempt to read tells as much as a look before it.
                if isinstance(path, Path) and not path.exists():
                    continue
                with suppress(FileNotFoundError):
                    found: list[dict[str, Any]] = read_parquet(path, wanted).to_pylist()
                    return found
            for file in reversed(accepted.snapshots(table)):
                if name in self._names_in(folder / file):
                    content = read_parquet(folder / file, pa.schema([*wanted, PART]))
                    mine = content.filter(pc.equal(content["part"], name))
                    return list(mine.select(wanted.names).to_pylist())
            return None

        return self.settled(look)

    def set_aside(self, path: Place) -> None:
        """Rename a damaged part, so that the next attempt misses it and does its rung again.

        Raises:
            SupersededError: if a newer attempt was claimed.
            OSError: if it can't be renamed.
        """
        assert self.attempt is not None
        check_latest(self.folder, self.attempt)
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f"{path.name}.damaged"))

    def settled(self, look: Callable[[Accepted], _Found]) -> _Found:
        """Return what `look` finds, having looked again if files were folded or replaced meanwhile.

        Files go only after a newer list names what took their place.
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
        """Return the files of single parts that `accepted` stands for, by the parts' names."""
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
        """Return the rows that `accepted` stands for, with the column `part`, ordered by it.

        Raises:
            FileNotFoundError: if a newer list took the place of `accepted` meanwhile.
            ValueError: naming the file, if one is damaged, unless `on_damage` takes the error; a
                snapshot has to be whole.
        """
        folder, named = self.folder / table, pa.schema([*wanted, PART])
        parts = self.parts(table, accepted)
        pieces, fetched = [], fetch(parts.values())
        for name, path in sorted(parts.items()):
            try:
                content = read_parquet(path, wanted, fetched.pop(path, None))
                pieces.append(with_part(content, name))
            except DamagedError as error:
                if on_damage is None:
                    raise
                on_damage(error)
        seen = set(parts)
        for file in reversed(accepted.snapshots(table)):
            content = read_parquet(folder / file, named)
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
        # A list that was seen once stays, so most of the time nobody has to look again.
        mine = self.attempt or 0
        return mine == 1 or self._accepted.attempt >= mine or self.accepted().attempt >= mine

    def _names_in(self, path: Place) -> frozenset[str]:
        if path not in self._part_names:
            content = read_parquet(path, pa.schema([PART]))
            self._part_names[path] = frozenset(content["part"].to_pylist())
        return self._part_names[path]
