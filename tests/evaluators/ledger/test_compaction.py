"""Attempts fence each other, and folding loses and doubles nothing, wherever it is cut off."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilobit.evaluators.ledger.compaction import begin, check_books, fold
from kilobit.evaluators.ledger.fencing import claim_file
from kilobit.evaluators.ledger.ledger import Ledger, write_whole
from kilobit.evaluators.ledger.parts import TABLES, as_parquet, with_part
from tests.support.rows import part_rows, rows_of, write_rows

USED = ("candidates", "rungs", "predictions", "decisions", "verifications")


def claim(folder: Path, attempt: int) -> None:
    write_whole(claim_file(folder, attempt), b"{}")


def write(ledger: Ledger, table: str, name: str, value: int) -> None:
    write_rows(ledger, table, name, content_of(table, name, value))


def content_of(table: str, name: str, value: int) -> list[dict[str, Any]]:
    """Return two rows that say which part they are of, and which of its versions."""
    number = next(f.name for f in TABLES[table] if pa.types.is_integer(f.type))
    return [{"candidate": who, number: value} for who in (name, f"{name}+")]


def late(folder: Path, attempt: int, table: str, name: str, value: int) -> None:
    """Write as one does who looked whether it was superseded just before it was."""
    rows = pa.Table.from_pylist(content_of(table, name, value), schema=TABLES[table])
    encoded = as_parquet(with_part(rows, name))
    write_whole(Ledger(folder, attempt).part(table, name), encoded)


def seen(folder: Path) -> dict[tuple[str, str], list[int]]:
    """Return what a reader finds: the values of each candidate in each table."""
    if not claim_file(folder, 1).exists():
        claim(folder, 1)
    check_books(folder)
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


def test_a_late_part_of_a_superseded_attempt_counts_for_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    old = Ledger(folder, 1)
    write(old, "rungs", "a", 1)
    write(old, "predictions", "a", 1)
    claim(folder, 2)
    # Until the newer attempt has made its list, the older one's parts still count.
    late(folder, 1, "rungs", "b", 1)
    begin(folder, 2)
    new = Ledger(folder, 2)
    write(new, "rungs", "c", 2)
    for name in ("a", "c", "d"):
        late(folder, 1, "rungs", name, 99)
    for name in ("c", "d"):
        late(folder, 1, "predictions", name, 99)
    expect = {("rungs", "a"): 1, ("rungs", "b"): 1, ("rungs", "c"): 2, ("predictions", "a"): 1}
    assert seen(folder) == expected(expect)
    for reader in (Ledger(folder), new, old):
        found = part_rows(reader, "rungs", "c")
        assert found is not None
        assert found[0]["rung"] == 2
        assert part_rows(reader, "rungs", "d") is None
        assert part_rows(reader, "predictions", "c") is None
    claim(folder, 3)
    begin(folder, 3)
    assert seen(folder) == expected(expect)


def test_who_has_not_begun_or_only_reads_can_not_write(tmp_path: Path) -> None:
    for ledger in (Ledger(tmp_path), Ledger(tmp_path, 2)):
        with pytest.raises(AssertionError):
            write(ledger, "rungs", "a", 1)


def test_folding_leaves_few_files_and_the_same_rows(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    for table in USED:
        for number in range(5):
            write(ledger, table, f"c{number}", number)
    before = {table: rows_of(ledger, table) for table in USED}
    for attempt in (1, 2):
        if attempt == 2:
            claim(tmp_path, 2)
            assert begin(tmp_path, 2) == []
            ledger = Ledger(tmp_path, 2)
            assert [p.name for p in (tmp_path / "rungs").iterdir()] == ["snapshot.a2.k0.parquet"]
        else:
            fold(ledger)
            assert len(list((tmp_path / "rungs").iterdir())) == 1
        assert {table: rows_of(Ledger(tmp_path), table) for table in USED} == before
        for number in range(5):
            found = part_rows(ledger, "rungs", f"c{number}")
            assert found == [r for r in before["rungs"] if r["candidate"][:2] == f"c{number}"]
        assert part_rows(ledger, "rungs", "c5") is None
        assert len(list((tmp_path / "predictions").iterdir())) == 5
    write(ledger, "rungs", "c1", 7)
    assert sorted(r["rung"] for r in rows_of(Ledger(tmp_path), "rungs")) == [
        0,
        0,
        2,
        2,
        3,
        3,
        4,
        4,
        7,
        7,
    ]


def test_what_nobody_will_ever_name_again_is_swept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    write(ledger, "rungs", "a", 1)
    write(ledger, "predictions", "a", 1)
    (tmp_path / "rungs" / ".b.a1.parquet.123.tmp").write_bytes(b"half")
    (tmp_path / "predictions" / ".b.a1.parquet.123.tmp").write_bytes(b"half")
    claim(tmp_path, 2)
    (tmp_path / "attempts" / ".0001.json.123.tmp").write_bytes(b"half")
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "0.bin").write_bytes(b"whole")
    (tmp_path / "payloads" / ".1.bin.123.tmp").write_bytes(b"half")
    begin(tmp_path, 2)
    late(tmp_path, 1, "predictions", "b", 1)
    late(tmp_path, 1, "rungs", "b", 1)
    claim(tmp_path, 3)
    begin(tmp_path, 3)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
    assert files == [
        "accepted/accepted.a3.k0.json",
        "attempts/0002.json",
        "attempts/0003.json",
        "payloads/0.bin",
        "predictions/a.a1.parquet",
        "rungs/snapshot.a3.k0.parquet",
    ]


@pytest.mark.parametrize("table", ["rungs", "predictions"])
def test_a_part_that_is_cut_short_is_left_out_and_its_rung_with_it(
    tmp_path: Path, table: str
) -> None:
    ledger = Ledger(tmp_path, 1)
    for name in ("a", "b"):
        for each in ("predictions", "rungs"):
            write(ledger, each, name, 1)
    fold(ledger)
    write(ledger, "rungs", "c", 1)
    write(ledger, "predictions", "c", 1)
    path = ledger.part(table, "c" if table == "rungs" else "b")
    os.truncate(path, path.stat().st_size - 3)
    claim(tmp_path, 2)
    (why,) = begin(tmp_path, 2)
    assert str(path) in why
    rungs = {row["candidate"] for row in rows_of(Ledger(tmp_path), "rungs")}
    assert rungs == ({"a", "a+", "b", "b+"} if table == "rungs" else {"a", "a+", "c", "c+"})


def scored(ledger: Ledger, name: str, **more: Any) -> None:
    """Write a rung as an evaluator does: its outputs and its program before its row."""
    who = name.rpartition("-r")[0]
    for table in ("predictions", "programs"):
        write_rows(ledger, table, name, [{"candidate": who, "rung": 1}])
    row = {"candidate": who, "rung": 1, "score": 0.5, "program": "0" * 16, **more}
    write_rows(ledger, "rungs", name, [row])


@pytest.mark.parametrize("table", ["predictions", "programs"])
@pytest.mark.parametrize("attempt", [2, 3])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_rung_is_left_out_whenever_something_of_it_is_gone_or_cut_short(
    tmp_path: Path, table: str, attempt: int, damage: str
) -> None:
    ledger = Ledger(tmp_path, 1)
    for name in ("a-r1", "b-r1"):
        scored(ledger, name)
    path = ledger.part(table, "b-r1")
    # Also where an earlier attempt has accepted the file.
    for number in range(2, attempt):
        claim(tmp_path, number)
        assert begin(tmp_path, number) == []
    path.unlink() if damage == "gone" else os.truncate(path, path.stat().st_size - 3)
    claim(tmp_path, attempt)
    (why,) = begin(tmp_path, attempt)
    assert "b-r1" in why
    assert str(tmp_path / table) in why
    assert [row["candidate"] for row in rows_of(Ledger(tmp_path), "rungs")] == ["a"]
    claim(tmp_path, attempt + 1)
    assert begin(tmp_path, attempt + 1) == []


def test_with_a_coarser_program_the_rung_that_made_it_is_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    rows = [{"candidate": "p", "position": 0}, {"candidate": "v", "parent": "p"}]
    write_rows(ledger, "candidates", "all", rows)
    for name in ("p-r0", "p-r1", "v-r1"):
        scored(ledger, name, rung=int(name[-1]))
    ledger.part("programs", "v-r1").unlink()
    claim(tmp_path, 2)
    begin(tmp_path, 2)
    found = [(row["candidate"], row["rung"]) for row in rows_of(Ledger(tmp_path), "rungs")]
    assert found == [("p", 0)]


def test_a_damaged_list_or_snapshot_is_named(tmp_path: Path) -> None:
    write(Ledger(tmp_path, 1), "rungs", "a", 1)
    claim(tmp_path, 2)
    begin(tmp_path, 2)
    listed = tmp_path / "accepted" / "accepted.a2.k0.json"
    whole = listed.read_bytes()
    listed.write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"accepted\.a2\.k0\.json: not a list of a ledger's files"):
        rows_of(Ledger(tmp_path), "rungs")
    listed.write_bytes(whole)
    (tmp_path / "rungs" / "snapshot.a2.k0.parquet").unlink()
    with pytest.raises(ValueError, match=r"snapshot\.a2\.k0\.parquet: the file is gone"):
        rows_of(Ledger(tmp_path), "rungs")


class Crash(BaseException):
    """The process is killed: nothing after this happens."""


@contextmanager
def crash_before(operation: int) -> Iterator[None]:
    """Kill whoever does the file operation of that number; a file being written stays half."""
    left = operation
    real = {"fsync": os.fsync, "replace": Path.replace, "unlink": Path.unlink}

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash

    def fsync(descriptor: int) -> None:
        try:
            count()
        except Crash:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            raise

    def replace(path: Path, target: Path) -> Path:
        count()
        return real["replace"](path, target)  # type: ignore[operator, no-any-return]

    def unlink(path: Path, missing_ok: bool = False) -> None:
        count()
        real["unlink"](path, missing_ok)  # type: ignore[operator]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "unlink", unlink)
        with suppress(Crash):
            yield


class Run:
    """A ledger with its attempts, and what a reader has to find in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.attempt, self.value = folder, 1, 0
        self.model: dict[tuple[str, str], int] = {}

    def write(self, table: str, name: str) -> None:
        self.value += 1
        # A rung is never written twice by one attempt.
        if table in ("predictions", "verifications") or (table, name) not in self.model:
            write(Ledger(self.folder, self.attempt), table, name, self.value)
            self.model[table, name] = self.value

    def late(self, table: str, name: str) -> None:
        """Let the attempt before write a part that it has not finished in time."""
        if self.attempt > 1 and name not in Ledger(self.folder).accepted().parts.get(table, {}):
            late(self.folder, self.attempt - 1, table, name, -1)

    def fold(self, crash: int) -> None:
        with crash_before(crash):
            fold(Ledger(self.folder, self.attempt))

    def begin(self, crash: int) -> None:
        self.attempt += 1
        claim(self.folder, self.attempt)
        with crash_before(crash):
            begin(self.folder, self.attempt)
        assert seen(self.folder) == expected(self.model)
        if Ledger(self.folder).accepted().attempt < self.attempt:
            # It died before its list was there; the next one finds what it should have.
            self.begin(1000)


ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(USED), st.sampled_from("abc")),
    st.tuples(st.just("late"), st.sampled_from(USED), st.sampled_from("abcd")),
    st.tuples(st.just("fold"), st.integers(0, 20)),
    st.tuples(st.just("begin"), st.integers(0, 30)),
)


@settings(max_examples=20)
@given(actions=st.lists(ACTIONS, min_size=4, max_size=14))
def test_wherever_it_is_cut_off_no_row_is_lost_or_doubled(actions: list[tuple[Any, ...]]) -> None:
    with TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        run.write("rungs", "a")
        for action, *rest in actions:
            getattr(run, action)(*rest)
            assert seen(run.folder) == expected(run.model)
        for (table, name), value in run.model.items():
            assert part_rows(Ledger(run.folder), table, name) == [
                {**dict.fromkeys(TABLES[table].names), **row}
                for row in content_of(table, name, value)
            ]
        run.begin(1000)
        assert not list(run.folder.glob("*/.*.tmp"))


def test_every_instant_of_beginning_and_folding_is_safe(tmp_path: Path) -> None:
    model = {(table, name): 1 for table in USED for name in "ab"}
    operation, done = 0, False
    while not done:
        folder = tmp_path / str(operation)
        ledger = Ledger(folder, 1)
        for table, name in model:
            write(ledger, table, name, 1)
        with crash_before(operation):
            fold(ledger)
            claim(folder, 2)
            begin(folder, 2)
            done = True
        assert seen(folder) == expected(model)
        for attempt in (2, 3):
            claim(folder, attempt)
            begin(folder, attempt)
            assert seen(folder) == expected(model)
        operation += 1
    assert operation > 25


def _written(folder: Path, attempts: int, folds: int, *, more: bool) -> dict[str, Any]:
    """Make a ledger of some attempts; return what a reader has to find."""
    model = {}
    for attempt in range(1, attempts + 1):
        claim(folder, attempt)
        begin(folder, attempt)
        ledger = Ledger(folder, attempt)
        for number in range(folds + more):
            name = f"c{attempt}{number}"
            for table in USED:
                write(ledger, table, name, attempt)
                model[table, name] = attempt
            if number < folds:
                fold(ledger)
    return expected(model)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("folds", [0, 1, 2])
@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_whichever_claims_and_lists_are_gone_no_row_goes_missing_in_silence(
    attempts: int, folds: int, more: bool, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    model = _written(whole, attempts, folds, more=more)
    books = [f for part in ("attempts", "accepted") for f in sorted((whole / part).glob("*"))]
    assert seen(whole) == model
    for number in range(1, 1 << len(books)):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        gone = [path for bit, path in enumerate(books) if number >> bit & 1]
        for path in gone:
            (folder / path.relative_to(whole)).unlink()
        had_claims = all(path.parent.name == "accepted" for path in gone)
        if model and not had_claims:
            with pytest.raises(ValueError, match=r"attempts/000\d.json: the file is gone, but"):
                check_books(folder)
        elif model:
            # A list of an attempt that has changed nothing yet says nothing.
            try:
                check_books(folder)
            except ValueError as error:
                assert "a list of accepted files is gone" in str(error)
            else:
                assert seen(folder) == model


@pytest.mark.parametrize(
    ("left", "why"),
    [
        ("c21.a2", r"attempt 2 wrote c21\.a2\.parquet: put it back from a copy"),
        ("snapshot.a2.k1", r"attempt 2 wrote snapshot\.a2\.k1\.parquet"),
        ("snapshot.a2.k0", r"it named candidates/snapshot\.a2\.k0\.parquet"),
    ],
)
def test_a_list_that_is_gone_stops_whoever_would_sweep_what_it_named(
    left: str, why: str, tmp_path: Path
) -> None:
    _written(tmp_path, 2, 1, more=True)
    check_books(tmp_path)
    for path in tmp_path.glob("accepted/*"):
        path.unlink()
    for path in tmp_path.glob("*/*.parquet"):
        if not path.name.startswith(left):
            path.unlink()
    with pytest.raises(ValueError, match=why):
        check_books(tmp_path)


def test_a_rung_that_was_decided_on_and_is_gone_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    for name in ("a-r0", "a-r1"):
        scored(ledger, name)
        write_rows(ledger, "decisions", name, [{"candidate": "a", "rung": int(name[-1])}])
    ledger.part("rungs", "a-r0").unlink()
    claim(tmp_path, 2)
    (why,) = begin(tmp_path, 2)
    assert why == f"{tmp_path}/rungs/a-r0.*: the file is gone"


@pytest.mark.parametrize("folded", [False, True])
def test_a_file_of_another_run_or_of_another_part_is_not_believed(
    folded: bool, tmp_path: Path
) -> None:
    ledgers = []
    for number in (1, 2):
        folder = tmp_path / str(number) / "ledger"
        claim(folder, 1)
        write_whole(folder.parent / "run.json", json.dumps({"id": str(number)}).encode())
        ledgers.append(Ledger(folder, 1))
        for name in ("a-r0", "b-r0"):
            scored(ledgers[-1], name)
        if folded:
            fold(ledgers[-1])
    mine, other = (ledger.folder / "rungs" for ledger in ledgers)
    name = "snapshot.a1.k1.parquet" if folded else "a-r0.a1.parquet"
    shutil.copy(other / name, mine / name)
    with pytest.raises(ValueError, match=rf"{name}: .*written by another run"):
        rows_of(Ledger(mine.parent), "rungs")
    if not folded:
        claim(mine.parent, 2)
        (why,) = begin(mine.parent, 2)
        assert "it was written by another run" in why
        assert [row["candidate"] for row in rows_of(Ledger(mine.parent), "rungs")] == ["b"]
    shutil.copy(other / name, other / name.replace("a-", "b-").replace("k1", "k2"))
    if folded:
        (other.parent / "accepted" / "accepted.a1.k2.json").write_bytes(
            (other.parent / "accepted" / "accepted.a1.k1.json").read_bytes().replace(b"k1", b"k2")
        )
    with pytest.raises(ValueError, match=f"it was written as {name}"):
        rows_of(Ledger(other.parent), "rungs")


def test_a_run_that_was_renamed_is_not_begun_again_under_its_old_name(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "ledger"
    claim(folder, 1)
    ledger = Ledger(folder, 1)
    write(ledger, "rungs", "a", 1)
    (tmp_path / "run").rename(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="the run's folder is gone: it was deleted, or ren"):
        write(ledger, "rungs", "b", 1)
    assert not (tmp_path / "run").exists()
