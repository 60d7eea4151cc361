from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kilobit.evaluators.ledger.compaction import begin, fold
from kilobit.evaluators.ledger.fencing import SupersededError, claim_file
from kilobit.evaluators.ledger.ledger import Ledger, write_whole
from kilobit.evaluators.ledger.parts import TABLES
from tests.support.rows import rows_of, write_rows

USED = ("candidates", "rungs", "predictions", "decisions", "verifications")


def claim(folder: Path, attempt: int) -> None:
    write_whole(claim_file(folder, attempt), b"{}")


def write(ledger: Ledger, table: str, name: str, value: int) -> None:
    write_rows(ledger, table, name, content_of(table, name, value))


def content_of(table: str, name: str, value: int) -> list[dict[str, Any]]:
    """Return two rows that say which part they are of, and which of its versions."""
    number = next(f.name for f in TABLES[table] if pa.types.is_integer(f.type))
    return [{"candidate": who, number: value} for who in (name, f"{name}+")]


def seen(folder: Path) -> dict[tuple[str, str], list[int]]:
    """Return what a reader finds: the values of each candidate in each table."""
    found: dict[tuple[str, str], list[int]] = {}
    for table in USED:
        number = next(f.name for f in TABLES[table] if pa.types.is_integer(f.type))
        for row in rows_of(Ledger(folder), table):
            found.setdefault((table, row["candidate"]), []).append(row[number])
    return found


def expected(model: dict[tuple[str, str], int]) -> dict[tuple[str, str], list[int]]:
    return {
        (table, who): [value]
        for (table, name), value in model.items()
        for who in (name, f"{name}+")
    }


def test_a_superseded_writer_stops_and_says_who_came(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    old = Ledger(folder, 1)
    write(old, "rungs", "a", 1)
    text = b'{"host": "n7", "pid": 12, "since": "2026-01-01"}'
    write_whole(claim_file(folder, 2), text)
    message = r"attempt 1 at .* superseded by attempt 2 on n7, process 12, since 2026-01-01"
    with pytest.raises(SupersededError, match=message):
        write(old, "rungs", "b", 1)
    with pytest.raises(SupersededError):
        fold(old)
    assert seen(folder) == expected({("rungs", "a"): 1})


def test_one_that_was_superseded_as_it_began_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Ledger(tmp_path, 1), "rungs", "a", 1)
    write(Ledger(tmp_path, 1), "predictions", "a", 1)
    claim(tmp_path, 2)
    claim(tmp_path, 3)
    with pytest.raises(SupersededError):
        begin(tmp_path, 2)
    begin(tmp_path, 3)
    write(Ledger(tmp_path, 3), "rungs", "b", 3)
    expect = expected({("rungs", "a"): 1, ("predictions", "a"): 1, ("rungs", "b"): 3})
    # And where it looked just before the other came, what it writes is not the newest list.
    with monkeypatch.context() as patch:
        patch.setattr("kilobit.evaluators.ledger.compaction.check_latest", lambda *_: None)
        patch.setattr("kilobit.evaluators.ledger.ledger.check_latest", lambda *_: None)
        begin(tmp_path, 2)
    assert seen(tmp_path) == expect
