"""Polling of the tables of a growing ledger; only new files are read.

A file of a ledger is read once: snapshots never change, and a part that its own attempt writes
again is read again after its compaction. So a poll lists each table and reads only new files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from kilobit.evaluators.ledger.fencing import Accepted, parts_of
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import PART, read_parquet
from kilobit.evaluators.ledger.storage import Place, fetch
from kilobit.evaluators.ledger.tables import TABLES

Row = dict[str, Any]
_Parts = dict[str, list[Row]]


class Following:
    """Rows of some tables of a growing ledger.

    Args:
        ledger: the ledger, which is only read.
        columns: the wanted columns of each table.
    """

    def __init__(self, ledger: Ledger, columns: Mapping[str, Sequence[str]]) -> None:
        self._ledger = ledger
        self._wanted = {
            table: pa.schema([TABLES[table].field(name) for name in names])
            for table, names in columns.items()
        }
        # Rows by part, of every accepted file.
        self._files: dict[str, dict[Place, _Parts]] = {table: {} for table in columns}
        self.rows: dict[str, list[Row]] = {table: [] for table in columns}

    def look(self) -> bool:
        """Read new files, update `rows`, and return whether anything has changed.

        Raises:
            ValueError: naming the file, if one is damaged or gone.
            StorageError: if a store can't be read.
        """
        found = self._ledger.settled(self._look)
        changed = [table for table in found if found[table].keys() != self._files[table].keys()]
        self._files = found
        for table in changed:
            parts: _Parts = {}
            # Later files replace earlier ones, and a part's own file its rows of a snapshot.
            for content in found[table].values():
                parts |= content
            self.rows[table] = [row for name in sorted(parts) for row in parts[name]]
        return bool(changed)

    def _look(self, accepted: Accepted) -> dict[str, dict[Place, _Parts]]:
        return {table: self._look_at(table, accepted) for table in self._wanted}

    def _look_at(self, table: str, accepted: Accepted) -> dict[Place, _Parts]:
        folder, wanted, known = self._ledger.folder / table, self._wanted[table], self._files[table]
        named = pa.schema([*wanted, PART])
        snapshots = [folder / file for file in accepted.snapshots(table)]
        parts = {n: folder / file for n, file in accepted.parts.get(table, {}).items()}
        parts |= parts_of(folder, accepted.attempt)
        fetched = fetch([path for path in parts.values() if path not in known])
        found: dict[Place, _Parts] = {}
        for path in snapshots:
            found[path] = known.get(path) or _by_part(read_parquet(path, named))
        for name, path in parts.items():
            rows = known.get(path)
            if rows is None:
                rows = {name: read_parquet(path, wanted, fetched.get(path)).to_pylist()}
            found[path] = rows
        return found


def _by_part(content: pa.Table) -> _Parts:
    parts: _Parts = {}
    for row in content.to_pylist():
        parts.setdefault(row.pop("part"), []).append(row)
    return parts
