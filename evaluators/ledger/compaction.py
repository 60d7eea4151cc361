"""Compaction of a ledger when an attempt begins and while it runs.

Many small Parquet files are slow to read, so the rows of finished parts are written to one snapshot
file per table, with the names of their parts. Files are deleted only after a list of accepted files
names their replacement, so a crash at any instant neither loses nor duplicates a row: until the new
list exists, the old list and the files it names are valid. Beginning an attempt writes its list of
accepted files and deletes leftovers of earlier attempts.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kilobit.evaluators.ledger.fencing import (
    Accepted,
    attempt_of,
    check_latest,
    latest_attempt,
    part_of,
    parts_of,
    snapshot_file,
    unexplained,
)
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import PART, TABLES, DamagedError, read_parquet, with_part
from kilobit.evaluators.ledger.storage import Place, fetch, remove, write_whole
from kilobit.evaluators.ledger.stored_path import StoredPath

# Outputs and programs are too large to rewrite in every attempt; they stay in single parts.
_STAY = ("predictions", "programs")
# Tables with at least one part per candidate, written once.
_FOLDED = ("candidates", "rungs", "decisions")
_MAGIC = b"PAR1"


def begin(folder: Place, attempt: int) -> list[str]:
    """Begin a claimed attempt on the ledger in `folder`; return a reason for each part left out.

    A part that is damaged or missing is left out together with its rung, which is then repeated.

    Raises:
        SupersededError: if a newer attempt has claimed the run.
        ValueError: naming the file, if a list or a snapshot is damaged.
        OSError: if the ledger can't be written.
    """
    if attempt == 1:
        return []
    ledger = Ledger(folder, attempt)
    before, files, tables, left_out = ledger.settled(lambda accepted: _gather(ledger, accepted))
    for table, content in tables.items():
        files[table] = [snapshot_file(attempt, 0)]
        ledger.write_file(folder / table / files[table][0], content)
    accepted = Accepted(attempt, 0, files)
    check_latest(folder, attempt)
    write_whole(folder / accepted.path, accepted.content())
    # A superseded attempt must not sweep: it could delete files that the newer attempt accepted.
    if latest_attempt(folder, attempt) == attempt:
        _sweep(folder, attempt, before)
    return left_out


def check_books(folder: Place) -> None:
    """Check that the claims, the lists and the files of a ledger explain each other.

    Without a claim or a list that is gone, rows would not count, and be swept as leftovers.

    Raises:
        ValueError: naming what is gone, and what to do.
    """
    for path, why in unexplained(folder).items():
        if path.parent.name == "attempts":
            raise ValueError(f"{path}: the file is gone, but {why}: put it back, empty if need be")
        if why or not _is_copied(folder, path):
            raise ValueError(
                f"{folder / 'accepted'}: a list of accepted files is gone, but "
                f"{why or f'it named {path.parent.name}/{path.name}'}: put it back from a copy, "
                "rows that only this list names would not count"
            )


def examine(
    ledger: Ledger, problems: Callable[[str, pa.Table], Iterable[str]]
) -> tuple[int, list[str]]:
    """Read every byte that counts in a ledger; return the number of files and what is wrong.

    Args:
        ledger: the ledger.
        problems: returns what is wrong with the rows of a whole part of the table of that name;
            called for tables that stay in single parts.

    Raises:
        ValueError: naming the file, if a claim, a list or a snapshot is gone or damaged, which
            `resume` can't repair.
        OSError: if a file can't be read.
    """
    check_books(ledger.folder)

    def look(accepted: Accepted) -> tuple[int, list[str]]:
        _, _, _, found = _gather(ledger, accepted)
        number = sum(len(accepted.snapshots(table)) for table in TABLES)
        for table in TABLES:
            parts = ledger.parts(table, accepted)
            number += len(parts)
            # The others were read to the end when they were gathered.
            for path in parts.values() if table in _STAY else ():
                try:
                    found += problems(table, read_parquet(path, TABLES[table], run=ledger.run))
                except DamagedError as error:
                    found.append(str(error))
                except FileNotFoundError:
                    # Named when the files were gathered.
                    continue
        return number, list(dict.fromkeys(found))

    return ledger.settled(look)


def _is_copied(folder: Place, snapshot: Place) -> bool:
    """Return whether a snapshot that no list names holds nothing that is not there without it."""
    ledger, table = Ledger(folder), snapshot.parent.name

    def look(accepted: Accepted) -> set[str]:
        there = set(ledger.parts(table, accepted))
        return there.union(*(held(snapshot.parent / name) for name in accepted.snapshots(table)))

    def held(path: Place) -> list[str]:
        names: list[str] = read_parquet(path, pa.schema([PART]))["part"].to_pylist()
        return names

    try:
        names = set(held(snapshot))
    except FileNotFoundError:
        return True
    return names <= ledger.settled(look)


def fold(ledger: Ledger) -> None:
    """Compact the parts that this attempt wrote since its last compaction, one file per table.

    Raises:
        SupersededError: if a newer attempt has claimed the run.
        ValueError: naming the file, if a part is damaged.
        OSError: if the ledger can't be written.
    """
    before = ledger.accepted()
    assert before.attempt == ledger.attempt
    files = {table: list(names) for table, names in before.files.items()}
    folded: list[Place] = []
    for table in _FOLDED:
        parts = parts_of(ledger.folder / table, before.attempt)
        if parts:
            name = snapshot_file(before.attempt, before.fold + 1)
            fetched = fetch(parts.values())
            content = pa.concat_tables(
                with_part(read_parquet(path, TABLES[table], fetched.get(path), ledger.run), part)
                for part, path in parts.items()
            )
            ledger.write_file(ledger.folder / table / name, content)
            files.setdefault(table, []).append(name)
            folded += parts.values()
    accepted = Accepted(before.attempt, before.fold + 1, files)
    check_latest(ledger.folder, before.attempt)
    write_whole(ledger.folder / accepted.path, accepted.content())
    remove([*folded, ledger.folder / before.path])


def _gather(
    ledger: Ledger, accepted: Accepted
) -> tuple[Accepted, dict[str, list[str]], dict[str, pa.Table], list[str]]:
    """Return `accepted`, the files to keep, the rows to compact, and reasons for damaged parts."""
    files: dict[str, list[str]] = {}
    left_out: list[str] = []
    damaged: set[str] = set()
    whole: dict[str, set[str]] = {}
    for table in _STAY:
        folder = ledger.folder / table
        parts = ledger.parts(table, accepted)
        problems = _problems(folder, parts)
        left_out += [f"{parts[name]}: {why}" for name, why in problems.items() if why]
        whole[table] = {name for name, why in problems.items() if not why}
        damaged |= parts.keys() - whole[table]
        files[table] = sorted(parts[name].name for name in whole[table])

    def note(error: DamagedError) -> None:
        left_out.append(str(error))
        if error.path.parent.name == "rungs":
            damaged.add(part_of(error.path.name))

    tables = {
        table: ledger.collect(table, TABLES[table], accepted, note)
        for table in TABLES
        if table not in _STAY
    }
    for table, column in (("predictions", "score"), ("programs", "program")):
        had = tables["rungs"].filter(pc.is_valid(tables["rungs"][column]))["part"]
        gone = set(had.to_pylist()) - whole[table] - damaged
        left_out += [f"{ledger.folder / table / name}.*: the file is gone" for name in sorted(gone)]
        damaged |= gone
    decided = set(tables["decisions"]["part"].to_pylist())
    gone = decided - set(tables["rungs"]["part"].to_pylist()) - damaged
    left_out += [f"{ledger.folder / 'rungs' / name}.*: the file is gone" for name in sorted(gone)]
    damaged |= gone
    damaged |= _makers(tables["candidates"], damaged)
    again = pc.is_in(tables["rungs"]["part"], pa.array(sorted(damaged), pa.string()))
    tables["rungs"] = tables["rungs"].filter(pc.invert(again))
    return accepted, files, {name: rows for name, rows in tables.items() if len(rows)}, left_out


def _makers(candidates: pa.Table, parts: Collection[str]) -> set[str]:
    """Return the parts of the parents' rungs that produced these parts by coarsening."""
    if not parts:
        return set()
    # A coarsening has no position: no proposer proposed it.
    made = candidates.filter(pc.is_null(candidates["position"]))
    pairs = zip(made["candidate"].to_pylist(), made["parent"].to_pylist(), strict=True)
    parents = {name: parent for name, parent in pairs if parent is not None}
    split = [part.rpartition("-") for part in parts]
    return {f"{parents[name]}-{rung}" for name, _, rung in split if name in parents}


def _problems(folder: Place, parts: Mapping[str, Place]) -> dict[str, str | None]:
    """Return the problem of each part in a table's folder, None for parts that seem intact."""
    if not isinstance(folder, StoredPath):
        return {name: _problem(Path(path)) for name, path in parts.items()}
    # Objects appear whole, so one listing replaces a read of the end of every object.
    there = {path.name for path in folder.glob("*.parquet")}
    return {
        name: None if path.name in there else "the file is gone" for name, path in parts.items()
    }


def _problem(path: Path) -> str | None:
    """Return the problem of a Parquet file that its last bytes reveal, or None."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - len(_MAGIC)))
            return None if file.read() == _MAGIC else "cut short"
    except FileNotFoundError:
        return "the file is gone"


def _sweep(folder: Place, attempt: int, before: Accepted) -> None:
    """Delete files of earlier attempts that no list will name again.

    Files of tables that stay in single parts are deleted one attempt later, when the previous
    attempt's list is known not to name them.
    """
    doomed: list[Place] = []
    for path in folder.glob("*/*"):
        theirs, table = attempt_of(path.name), path.parent.name
        half = path.name.startswith(".") and path.name.endswith(".tmp")
        if table == "payloads" and half:
            # Payload names carry no attempt; only this attempt writes now, so delete its leftovers.
            theirs = 0
        if theirs is None or theirs >= attempt or (table == "attempts" and not half):
            continue
        if table in _STAY and not half:
            accepted = before.files.get(table, [])
            if theirs >= before.attempt or path.name in accepted:
                continue
        doomed.append(path)
    remove(doomed)
