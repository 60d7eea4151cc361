"""Polling of the tables of a growing ledger; only new files are read.

A file of a ledger is read once: snapshots never change, and a part that its own attempt writes
again is read again after its compaction. So a poll lists each table and reads only new files.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import pyarrow as pa

from kilobit.evaluators.ledger.fencing import Accepted, parts_of
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import PART, TABLES, read_parquet
from kilobit.evaluators.ledger.storage import Place, fetch
from kilobit.search.records import Record

_Parts = dict[str, list[Record]]
_Record = TypeVar("_Record", bound=Record)


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
        table, wanted, known = kind.table, self._wanted[kind], self._files[kind]
        folder, named = self._ledger.folder / table, pa.schema([*wanted, PART])
        snapshots = [folder / file for file in accepted.snapshots(table)]
        parts = {n: folder / file for n, file in accepted.parts.get(table, {}).items()}
        parts |= parts_of(folder, accepted.attempt)
        fetched = fetch([path for path in parts.values() if path not in known])
        found: dict[Place, _Parts] = {}
        for path in snapshots:
            found[path] = known.get(path) or _by_part(kind, read_parquet(path, named))
        for name, path in parts.items():
            records = known.get(path)
            if records is None:
                records = {name: kind.all_of(read_parquet(path, wanted, fetched.get(path)))}
            found[path] = records
        return found


def _by_part(kind: type[Record], content: pa.Table) -> _Parts:
    parts: _Parts = {}
    for row in content.to_pylist():
        parts.setdefault(row.pop("part"), []).append(kind.of(row))
    return parts
