"""Rows of a ledger as dictionaries, for tests that write or compare single columns."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import TABLES, with_part
from kilobit.evaluators.ledger.storage import Place
from kilobit.search.records import RECORDS, CertificateRecord, Record

KINDS: dict[str, type[Record]] = {kind.table: kind for kind in RECORDS}


def write_rows(ledger: Ledger, table: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Place:
    """Write a part of rows; columns that a row lacks are null."""
    assert {key for row in rows for key in row} <= set(TABLES[table].names)
    path = ledger.part(table, name)
    assert ledger._has_begun(), "this attempt has not begun"
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


def certificate(lower: float | None, **changes: Any) -> CertificateRecord:
    """Return the certificate of a program of the candidate `a`."""
    values: dict[str, Any] = {
        "program": "program of a", "candidate": "a", "split": "sealed", "num_examples": 9,
        "score": 0.9, "upper": 1.0, "level": 0.95, "num_programs": 3, "opening": "o",
        "repeated": False, "finished_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return CertificateRecord(**values | {"lower": lower} | changes)
