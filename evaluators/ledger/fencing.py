"""Fencing of a ledger: attempts, their claims, and the parts of older attempts that they accept.

    LEDGER/attempts/0002.json            claim of attempt 2, by exclusive creation, never twice
    LEDGER/TABLE/{part}.a2.parquet       a part that attempt 2 wrote
    LEDGER/TABLE/snapshot.a2.k1.parquet  rows of many parts, with their names as the column `part`
    LEDGER/accepted/accepted.a2.k1.json  files that attempt 2 found finished or has compacted

Only the list with the highest numbers is valid. A part counts if that list names it, or if that
list's own attempt wrote it; parts that an older attempt writes later never count, whatever the
clocks say. The first attempt finds no earlier parts, so it needs no list.
"""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from kilobit.evaluators.ledger.storage import Place, read_json
from kilobit.evaluators.ledger.stored_path import StorageError

_PART = re.compile(r"(?P<name>.+)\.a(?P<attempt>\d+)\.parquet")
_SNAPSHOT = re.compile(r"snapshot\.a(?P<attempt>\d+)\.k(?P<fold>\d+)\.parquet")
_LIST = re.compile(r"accepted\.a(?P<attempt>\d+)\.k(?P<fold>\d+)\.json")


class SupersededError(RuntimeError):
    """A newer attempt at the same run has begun; nothing that this one writes would count."""


@dataclass(frozen=True)
class Accepted:
    """A list of accepted files.

    Attributes:
        attempt: the attempt that wrote it; all other files of that attempt are accepted too.
        fold: number of compactions that this attempt has made of its own parts.
        files: names by table, the newest last.
    """

    attempt: int = 1
    fold: int = 0
    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        """Sort key of an accepted list."""
        return self.attempt, self.fold

    @property
    def path(self) -> str:
        """Path of the list, relative to its ledger."""
        return f"accepted/accepted.a{self.attempt}.k{self.fold}.json"

    def snapshots(self, table: str) -> list[str]:
        """Return the accepted snapshots of a table, the oldest first."""
        return [name for name in self.files.get(table, []) if _SNAPSHOT.fullmatch(name)]

    @cached_property
    def parts(self) -> dict[str, dict[str, str]]:
        """Return the accepted files of single parts: table, part, file name."""
        found: dict[str, dict[str, str]] = {}
        for table, names in self.files.items():
            parts = [(match["name"], match[0]) for match in map(_PART.fullmatch, names) if match]
            found[table] = dict(parts)
        return found

    def content(self) -> bytes:
        """Return the content of the list's file."""
        return json.dumps({"files": self.files}).encode()


def part_file(name: str, attempt: int) -> str:
    """Return the file name of a part."""
    return f"{name}.a{attempt}.parquet"


def part_of(file: str) -> str:
    """Return the name of the part in a file's name."""
    match = _PART.fullmatch(file)
    return match["name"] if match else file.removesuffix(".parquet")


def snapshot_file(attempt: int, fold: int) -> str:
    """Return the file name of a snapshot."""
    return f"snapshot.a{attempt}.k{fold}.parquet"


def parts_of(folder: Place, attempt: int) -> dict[str, Place]:
    """Return the finished parts of `attempt` in a table's folder, by name and sorted by it.

    Files without an attempt in their name were written by a version that had no attempts; they
    count as the first attempt's.
    """
    found = {}
    for path in folder.glob("*.parquet"):
        match = _PART.fullmatch(path.name)
        if match and int(match["attempt"]) == attempt:
            found[match["name"]] = path
        elif not match and attempt == 1 and not _SNAPSHOT.fullmatch(path.name):
            found[path.stem] = path
    return dict(sorted(found.items()))


def attempt_of(name: str) -> int | None:
    """Return the attempt in the name of a file of any kind, or None."""
    match = re.search(r"\.a(\d+)\.", name) or re.match(r"\.(\d+)\.json\.", name)
    return int(match[1]) if match else None


def claim_file(folder: Place, attempt: int) -> Place:
    """Return the file whose existence claims an attempt."""
    return folder / "attempts" / f"{attempt:04}.json"


def latest_attempt(folder: Place, known: int = 0) -> int:
    """Return the number of the latest attempt claimed, `known` or later; 0 if there is none."""
    while claim_file(folder, known + 1).exists():
        known += 1
    return known


def unexplained(folder: Place) -> dict[Place, str]:
    """Return claims and lists that are gone, by what other files' names say, each with a reason.

    An attempt claims its number first, lists what it accepts next, and writes parts after that; so
    the names of its files say what has to be there. A snapshot that no list names yet is returned
    with an empty reason: it is explained if the parts that it holds are there without it.
    """
    # Files first, then what explains them: what is written meanwhile only explains more.
    names = [(path, _SNAPSHOT.fullmatch(path.name)) for path in folder.glob("*/*.parquet")]
    files = {path: (int(match["attempt"]), int(match["fold"])) for path, match in names if match}
    for path, _ in names:
        if match := _PART.fullmatch(path.name):
            files[path] = (int(match["attempt"]), -1)
    found = [_LIST.fullmatch(path.name) for path in (folder / "accepted").glob("*.json")]
    lists = [(int(match["attempt"]), int(match["fold"])) for match in found if match]
    newest = max(lists, default=(1, 0))
    claims = {
        int(path.stem) for path in (folder / "attempts").glob("*.json") if path.stem.isdecimal()
    }
    latest = max([*claims, *(attempt for attempt, _ in [*lists, *files.values()])], default=0)
    # Some of them tell that one is gone; a name can say any number.
    missing = islice((number for number in range(1, latest + 1) if number not in claims), 100)
    gone = {
        claim_file(folder, attempt): f"attempt {attempt} or a later one was at work"
        for attempt in missing
    }
    for path, (attempt, fold) in sorted(files.items()):
        if attempt > newest[0] and fold != 0:
            gone[folder / Accepted(attempt, 0).path] = f"attempt {attempt} wrote {path.name}"
        elif fold >= 0 and (attempt, fold) > newest:
            gone[path] = ""
    return gone


def check_latest(folder: Place, attempt: int) -> None:
    """Check that no attempt after `attempt` was claimed.

    Raises:
        SupersededError: naming the newer attempt.
    """
    newest = latest_attempt(folder, attempt)
    if newest > attempt:
        try:
            claim = read_json(claim_file(folder, newest))
            where = f" on {claim['host']}, process {claim['pid']}, since {claim['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            where = ""
        raise SupersededError(
            f"attempt {attempt} at {folder.parent} is superseded by attempt {newest}{where}: this "
            "one stops, and its finished results are kept"
        )


def _names_by_table(files: Any) -> dict[str, list[str]]:
    """Return the files of a list.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(files, dict) or not all(isinstance(names, list) for names in files.values()):
        raise ValueError("`files` must be lists of names by table")
    odd = next((n for names in files.values() for n in names if not _is_a_name(n)), None)
    if odd is not None:
        raise ValueError(f"{odd!r:.60} is not the name of a file")
    return files


def _is_a_name(name: Any) -> bool:
    return isinstance(name, str) and "/" not in name and "\0" not in name


def read_accepted(folder: Place, known: Accepted) -> Accepted:
    """Return the valid list, which is `known` itself if there is no newer one.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    while True:
        newest = known.key
        for path in (folder / "accepted").glob("*.json"):
            match = _LIST.fullmatch(path.name)
            if match:
                newest = max(newest, (int(match["attempt"]), int(match["fold"])))
        if newest == known.key:
            return known
        path = folder / Accepted(*newest).path
        try:
            return Accepted(*newest, _names_by_table(read_json(path)["files"]))
        except FileNotFoundError:
            # A newer list replaced it between listing and reading.
            continue
        except StorageError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a list of a ledger's files: {error}") from error
