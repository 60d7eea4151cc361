"""Tables that grow are read as a whole read would find them, and each file once."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.ledger import ledger as ledger_module
from kilobit.evaluators.ledger.compaction import begin, fold
from kilobit.evaluators.ledger.ledger import Following, Ledger
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.records import DecisionRecord, Record, RungRecord

COLUMNS: dict[type[Record], tuple[str, ...]] = {
    RungRecord: ("candidate", "rung", "num_examples"),
    DecisionRecord: ("candidate", "rung", "decision"),
}


def write(ledger: Ledger, candidate: str, examples: int) -> None:
    scored = RungRecord(
        candidate=candidate, rung=0, num_examples=examples, finished_at=datetime.now(UTC)
    )
    ledger.write(RungRecord, scored.part, [scored])
    ended = DecisionRecord(candidate=candidate, rung=0, decision="stop")
    ledger.write(DecisionRecord, scored.part, [ended])


def whole(folder: Place) -> list[list[Record]]:
    return [Ledger(folder).records(kind, names) for kind, names in COLUMNS.items()]


def records(seen: Following) -> list[list[Record]]:
    return [seen.records(kind) for kind in COLUMNS]


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that looks have read."""
    names: list[str] = []
    looks: list[Following] = []
    inner, look = ledger_module.read_parquet, Following.look

    def read(path: Place, *rest: Any, **more: Any) -> Any:
        names.extend(path.name for _ in looks)
        return inner(path, *rest, **more)

    def watched(seen: Following) -> bool:
        looks.append(seen)
        try:
            return look(seen)
        finally:
            looks.remove(seen)

    monkeypatch.setattr(ledger_module, "read_parquet", read)
    monkeypatch.setattr(Following, "look", watched)
    return names


def grow(folder: Place, read_files: list[str]) -> None:
    ledger = Ledger(folder, 1)
    seen = Following(Ledger(folder), COLUMNS)
    assert not seen.look()
    for number in range(4):
        write(ledger, f"c{number}", 1)
        assert seen.look()
        assert not seen.look()
        assert records(seen) == whole(folder)
    assert len(read_files) == 8
    # Folded: the rows are the same, in one file a table.
    fold(ledger)
    assert seen.look()
    assert records(seen) == whole(folder)
    write(ledger, "c2", 9)
    assert seen.look()
    assert records(seen) == whole(folder)
    assert [one.num_examples for one in seen.records(RungRecord)] == [1, 1, 9, 1]
    assert len(read_files) == 8 + 2 + 2
    # Another attempt begins with one snapshot of all.
    begin(folder, 2)
    write(Ledger(folder, 2), "c9", 3)
    write(ledger, "late", 3)
    assert seen.look()
    assert records(seen) == whole(folder)
    assert [one.candidate for one in seen.records(RungRecord)] == ["c0", "c1", "c2", "c3", "c9"]
    assert len(read_files) == 12 + 4


def test_what_is_followed_is_what_a_whole_read_finds(
    tmp_path: Path, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A superseded attempt looks before it writes; what it had begun to write may still appear.
    monkeypatch.setattr("kilobit.evaluators.ledger.ledger.check_latest", lambda *_: None)
    grow(tmp_path, read_files)


def test_on_a_store_too(
    folder: StoredPath, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilobit.evaluators.ledger.ledger.check_latest", lambda *_: None)
    grow(folder, read_files)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(Ledger(tmp_path, 1), "c0", 1)
    (tmp_path / "rungs" / "c1-r0.a1.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"c1-r0\.a1\.parquet: not a part of a ledger"):
        Following(Ledger(tmp_path), COLUMNS).look()
