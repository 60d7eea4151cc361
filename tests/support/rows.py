"""Rows of a ledger as dictionaries, for tests that write or compare single columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import with_part
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.ledger.tables import TABLES
from kilobit.search.records import RECORDS, Record

KINDS: dict[str, type[Record]] = {kind.table: kind for kind in RECORDS}


def write_rows(ledger: Ledger, table: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Place:
    """Write a part of rows; columns that a row lacks are null."""
    assert {key for row in rows for key in row} <= set(TABLES[table].names)
    path = ledger.part(table, name)
    content = pa.Table.from_pylist([dict(row) for row in rows], schema=TABLES[table])
    ledger.write_file(path, with_part(content, name))
    return path


def rows_of(
    ledger: Ledger, table: str, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a table."""
    rows: list[dict[str, Any]] = ledger.read(table, columns).to_pylist()
    return rows


def part_rows(ledger: Ledger, table: str, name: str) -> list[dict[str, Any]] | None:
    """Return the rows of one accepted part, or None if there is none."""
    records = ledger.read_part(KINDS[table], name)
    return None if records is None else [record.row() for record in records]
