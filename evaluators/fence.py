"""Which parts of a ledger count: attempts, their claims, and what each accepted when it began.

    LEDGER/attempts/0002.json            attempt 2 was claimed, by exclusive creation, never twice
    LEDGER/TABLE/{part}.a2.parquet       a part that attempt 2 wrote
    LEDGER/TABLE/snapshot.a2.k1.parquet  rows of many parts, with their names as the column `part`
    LEDGER/accepted/accepted.a2.k1.json  what attempt 2 found finished, and what it has folded

The list with the highest numbers is the one that counts. A part counts if that list names it, or if
it was written by that list's own attempt; what an older attempt writes later never does, whatever
the clocks say. The first attempt has found nothing, so it needs no list.
"""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property

from evaluators.storage import Place
from evaluators.stored_path import StorageError

_PART = re.compile(r"(?P<name>.+)\.a(?P<attempt>\d+)\.parquet")
_SNAPSHOT = re.compile(r"snapshot\.a(?P<attempt>\d+)\.k\d+\.parquet")
_LIST = re.compile(r"accepted\.a(?P<attempt>\d+)\.k(?P<fold>\d+)\.json")


class SupersededError(RuntimeError):
    """A newer attempt at the same run has begun; nothing that this one writes would count."""


@dataclass(frozen=True)
class Accepted:
    """A list of accepted files.

    Attributes:
        attempt: the attempt that wrote it; whatever else that attempt writes is accepted too.
        fold: how often that attempt has folded its own parts.
        files: names by table, the newest last.
    """

    attempt: int = 1
    fold: int = 0
    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        """Return what orders the lists of a ledger."""
        return self.attempt, self.fold

    @property
    def path(self) -> str:
        """Return where the list lies below its ledger."""
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
        """Return the list as it lies on disk."""
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
    """Return the finished parts in a table's folder that `attempt` wrote, by name, in their order.

    Files without an attempt in their name are of a version that had none; they pass as the first's.
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
    """Return the attempt in a file's name, whatever kind of file it is, or None."""
    match = re.search(r"\.a(\d+)\.", name) or re.match(r"\.(\d+)\.json\.", name)
    return int(match[1]) if match else None


def claim_file(folder: Place, attempt: int) -> Place:
    """Return the file whose existence says that an attempt was claimed."""
    return folder / "attempts" / f"{attempt:04}.json"


def latest_attempt(folder: Place, known: int = 0) -> int:
    """Return the number of the latest attempt claimed, `known` or later; 0 if there is none."""
    while claim_file(folder, known + 1).exists():
        known += 1
    return known


def check_latest(folder: Place, attempt: int) -> None:
    """Check that no attempt after `attempt` was claimed.

    Raises:
        SupersededError: naming the newer attempt.
    """
    newest = latest_attempt(folder, attempt)
    if newest > attempt:
        try:
            claim = json.loads(claim_file(folder, newest).read_bytes())
            where = f" on {claim['host']}, process {claim['pid']}, since {claim['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            where = ""
        raise SupersededError(
            f"attempt {attempt} at {folder.parent} is superseded by attempt {newest}{where}: this "
            "one stops, and what it finished before stays"
        )


def read_accepted(folder: Place, known: Accepted) -> Accepted:
    """Return the list that counts; `known` itself if it still does.

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
            return Accepted(*newest, json.loads(path.read_bytes())["files"])
        except FileNotFoundError:
            # A newer one took its place between the two looks.
            continue
        except StorageError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a list of a ledger's files: {error}") from error
