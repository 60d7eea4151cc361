import os
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kilobit.evaluators.ledger.ledger import TABLES, Ledger, write_whole
from kilobit.evaluators.ledger.parts import as_parquet
from tests.support.rows import part_rows, rows_of, write_rows


def row(candidate: str, score: float | None = 0.5) -> dict[str, object]:
    return {"candidate": candidate, "rung": 0, "score": score}


def test_what_is_written_is_read_and_the_rest_is_null(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    write_rows(ledger, "rungs", "b", [row("b", None)])
    write_rows(ledger, "rungs", "a", [row("a")])
    rows = rows_of(ledger, "rungs")
    assert [(r["candidate"], r["score"], r["seconds"]) for r in rows] == [
        ("a", 0.5, None),
        ("b", None, None),
    ]


def test_writing_a_part_again_replaces_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    write_rows(ledger, "rungs", "a", [row("a", 0.1)])
    write_rows(ledger, "rungs", "a", [row("a", 0.2)])
    assert [r["score"] for r in rows_of(ledger, "rungs")] == [0.2]


def test_crash_leaves_the_old_part_and_no_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, 1)
    write_rows(ledger, "rungs", "a", [row("a", 0.1)])

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_rows(ledger, "rungs", "a", [row("a", 0.2)])
    assert [p.name for p in (tmp_path / "rungs").iterdir()] == ["a.a1.parquet"]
    assert rows_of(ledger, "rungs")[0]["score"] == 0.1


def test_a_write_that_the_file_system_loses_or_cuts_short_is_an_error_and_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, 1)
    replace = Path.replace

    def lose(path: Path, target: Path) -> Path:
        path.unlink()
        return target

    def cut(path: Path, target: Path) -> Path:
        replace(path, target)
        os.truncate(target, target.stat().st_size // 2)
        return target

    for fault in (lose, cut):
        monkeypatch.setattr(Path, "replace", fault)
        with pytest.raises(OSError, match=r"lost or cut short.*a\.a1\.parquet"):
            write_rows(ledger, "rungs", "a", [row("a")])
        assert rows_of(ledger, "rungs") == []
    monkeypatch.setattr(Path, "replace", replace)
    write_rows(ledger, "rungs", "a", [row("a")])
    assert len(rows_of(ledger, "rungs")) == 1


def test_a_ledger_of_the_first_version_is_read(tmp_path: Path) -> None:
    content = pa.Table.from_pylist([row("a")]).replace_schema_metadata({"kilobit_schema": "1"})
    (tmp_path / "rungs").mkdir()
    pq.write_table(content, tmp_path / "rungs" / "a.parquet")
    assert [r["candidate"] for r in rows_of(Ledger(tmp_path), "rungs")] == ["a"]
    found = part_rows(Ledger(tmp_path), "rungs", "a")
    assert found is not None
    assert (found[0]["score"], found[0]["worker"]) == (0.5, None)


def test_scratch_files_are_not_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    write_rows(ledger, "rungs", "a", [row("a")])
    (tmp_path / "rungs" / ".b.parquet.123.tmp").write_bytes(b"half")
    assert len(rows_of(ledger, "rungs")) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing"])
def test_a_damaged_part_is_named(tmp_path: Path, content: bytes) -> None:
    write_whole(tmp_path / "rungs" / "bad.parquet", content)
    with pytest.raises(ValueError, match=r"bad\.parquet: not a part of a ledger"):
        Ledger(tmp_path).read("rungs")


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    path = write_rows(ledger, "rungs", "a", [row("a")])
    table = pq.read_table(path).replace_schema_metadata({"kilobit_schema": "3"})
    pq.write_table(table, path)
    with pytest.raises(ValueError, match="ledger schema 3"):
        ledger.read("rungs")


def test_a_column_that_was_added_later_is_null_in_older_parts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    path = write_rows(ledger, "rungs", "a", [row("a")])
    table = pq.read_table(path).drop_columns(["base_digest"])
    path.write_bytes(as_parquet(table))
    assert ledger.read("rungs", ["candidate", "base_digest"]).to_pylist() == [
        {"candidate": "a", "base_digest": None}
    ]


@pytest.mark.parametrize("table", sorted(TABLES))
def test_duckdb_and_pandas_read_every_table(tmp_path: Path, table: str) -> None:
    ledger = Ledger(tmp_path, 1)
    field = next(f for f in TABLES[table] if pa.types.is_string(f.type))
    write_rows(ledger, table, "a", [{field.name: "x"}])
    write_rows(ledger, table, "b", [{field.name: "y"}])
    found = duckdb.sql(f"SELECT {field.name} FROM '{tmp_path}/{table}/*.parquet' ORDER BY 1")
    assert found.fetchall() == [("x",), ("y",)]
    assert sorted(pd.read_parquet(tmp_path / table)[field.name]) == ["x", "y"]


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "", "a\0b", "a\\b"])
def test_a_part_can_not_lie_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid part name"):
        write_rows(Ledger(tmp_path / "ledger", 1), "rungs", name, [{"candidate": "x"}])
    assert list(tmp_path.iterdir()) == []
