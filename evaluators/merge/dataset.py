"""A data set: the results of several runs, and imported published points, in one folder.

DIR/dataset.json             manifest: the sources of the data set
DIR/TABLE/RUN-N.parquet      rows of a run, in all tables of its ledger that hold any
DIR/bare/RUN-N.parquet       program bits of the bare question, from which net bits count
DIR/points/RUN-N.parquet     imported points
DIR/conflicts/RUN-N.parquet  rows that contradict the row that was kept
DIR/payloads/DIGEST.bin      payloads that are too large for the table `programs`

Rows have the columns of the ledger's tables, plus their part and their run. There are no duplicate
rows: of rows with the same claim only the first is kept (`kilobit.evaluators.merge.dataset`).

Claims of the rows of a table: the columns that identify their subject and hold their findings.

Rows of two sources have the same subject if their columns `about` are equal and their runs share
what `Shared` demands. If the rows also agree on the columns `says`, the later one is a duplicate;
if not, they conflict. All other columns are not compared, because they differ by nature: times,
workers, attempts, positions in a search.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, ValidationError

from kilobit.evaluators.ledger.parts import PART, SCHEMA_VERSION, TABLES, read_batches
from kilobit.evaluators.ledger.storage import Place, read_json
from kilobit.search.settings import Config, reason_of

MANIFEST = "dataset.json"
_PAYLOADS = "payloads"
# The file of a table without rows; no run has this name.
EMPTY = "empty.parquet"
RUN = pa.field("run", pa.string())
LINE = pa.field("line", pa.int64())
_FILE = re.compile(r"(?P<run>.+)-(?P<number>\d+)\.parquet")
_PAYLOAD = re.compile(r"[0-9a-f]{8,64}\.bin")
_ROWS_AT_ONCE = 1 << 20
# Characters that globs, shells or readers of folders may treat specially.
_ODD = re.compile(r"[^A-Za-z0-9._-]")

POINTS = pa.schema(
    [
        ("task", pa.string()),
        ("model", pa.string()),
        ("regime", pa.string()),
        ("family", pa.string()),
        ("candidate", pa.string()),
        ("program_bits", pa.int64()),
        ("payload_bits", pa.int64()),
        ("score", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("num_examples", pa.int64()),
        LINE,
    ]
)
BARE = pa.schema([("task", pa.string()), ("model", pa.string()), ("program_bits", pa.int64())])
CONFLICTS = pa.schema(
    [
        ("table", pa.string()),
        ("candidate", pa.string()),
        ("rung", pa.int32()),
        ("split", pa.string()),
        ("example", pa.string()),
        ("program", pa.string()),
        ("column", pa.string()),
        ("kept", pa.string()),
        ("other", pa.string()),
        ("kept_run", pa.string()),
        ("kept_part", pa.string()),
    ]
)
DATASET_TABLES: dict[str, pa.Schema] = {
    **TABLES,
    "bare": BARE,
    "points": POINTS,
    "conflicts": CONFLICTS,
}
# Files and folders that belong to a data set; all others in its folder are the user's.
OWN = frozenset({MANIFEST, _PAYLOADS, *DATASET_TABLES})
_CONFLICT = ("table", "candidate", "rung", "split", "example", "program", "column", "kept", "other")


class DatasetSource(Config):
    """One source of a data set, as its manifest lists it."""

    name: Annotated[str, Field(description="its name in the column `run`", min_length=1)]
    kind: Annotated[Literal["run", "import"], Field(description="a run, or an imported file")]
    path: Annotated[str, Field(description="where it was read")]
    identity: Annotated[str, Field(description="the same for every copy and version of a run")]
    digest: Annotated[str, Field(description="of the names and sizes of the files read")]
    num_bytes: Annotated[int, Field(ge=0, description="size of the files read")]
    attempts: Annotated[int | None, Field(description="attempts of the run; null for a file")]
    about: Annotated[dict[str, Any], Field(description="its run.json, or how it was imported")]
    read_at: Annotated[str, Field(description="when its rows were read, ISO 8601")]
    rows: Annotated[dict[str, int], Field(description="its rows in the data set, by table")]


class DatasetError(ValueError):
    """A folder holds no data set, or a damaged one."""


def is_dataset(folder: Place) -> bool:
    """Return whether a folder holds the manifest of a data set."""
    return (folder / MANIFEST).exists()


def read_manifest(folder: Place) -> list[DatasetSource]:
    """Return the sources of a data set, in the order of its rows.

    Raises:
        DatasetError: naming the file and what is wrong with it.
        OSError: if it can't be read.
    """
    file = folder / MANIFEST
    try:
        content = read_json(file)
        version, listed = content["ledger_schema"], content["sources"]
        sources = [DatasetSource.model_validate_json(json.dumps(each)) for each in listed]
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise DatasetError(
            f"{file}: {field}: {problem['msg']} (found {problem['input']!r:.80})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        reason = reason_of(error)
        raise DatasetError(f"{file} is not a valid manifest of a data set: {reason}") from error
    if version != SCHEMA_VERSION:
        raise DatasetError(f"{file}: schema {version!r}, this version reads {SCHEMA_VERSION}")
    if not sources:
        raise DatasetError(f"{file}: there is no source in it")
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise DatasetError(f"{file}: two sources have the same name")
    odd = next((source.name for source in sources if plain_name(source.name) != source.name), None)
    if odd is not None:
        raise DatasetError(f"{file}: {odd!r} is not a valid name of a run")
    return sources


def foreign_among_rows(folder: Path) -> Path | None:
    """Return a file in the folders of a data set that does not belong to it, or None.

    Raises:
        DatasetError: if the folder is no data set.
        OSError: if it can't be read.
    """
    runs = {source.name for source in read_manifest(folder)}
    for name in sorted(OWN - {MANIFEST}):
        held = folder / name
        if held.is_symlink() or (held.exists() and not held.is_dir()):
            return held
        for path in sorted(held.iterdir()) if held.exists() else ():
            if path.is_symlink() or not path.is_file() or not _is_own(name, path.name, runs):
                return path
    return None


def _is_own(table: str, file: str, runs: Collection[str]) -> bool:
    if table == _PAYLOADS:
        return _PAYLOAD.fullmatch(file) is not None
    match = _FILE.fullmatch(file)
    return file == EMPTY or (match is not None and match["run"] in runs)


def manifest(sources: Sequence[DatasetSource], made_at: str) -> bytes:
    """Return the content of a data set's manifest."""
    tables: dict[str, int] = dict.fromkeys(DATASET_TABLES, 0)
    for source in sources:
        for table, number in source.rows.items():
            tables[table] += number
    content = {
        "ledger_schema": SCHEMA_VERSION,
        "made_at": made_at,
        "rows": {table: number for table, number in tables.items() if number},
        "sources": [source.model_dump(mode="json") for source in sources],
    }
    return json.dumps(content, indent=1).encode()


def plain_name(text: str) -> str:
    """Return the name of a run in a form that is safe in file names."""
    # Readers of folders skip names that begin with a dot or an underscore.
    return _ODD.sub("-", text).lstrip("._-") or "run"


def distinct_name(text: str, taken: Collection[str]) -> str:
    """Return a plain name that is not taken, for example `search-2`."""
    name, number = plain_name(text), 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def file_name(run: str, number: int) -> str:
    """Return the name of a file with rows of a run."""
    return f"{run}-{number}.parquet"


def files_of(folder: Place, table: str) -> dict[str, list[Place]]:
    """Return the files of a table by run, in the order in which they were written."""
    found: dict[str, list[tuple[int, Place]]] = {}
    for path in (folder / table).glob("*.parquet"):
        match = _FILE.fullmatch(path.name)
        if match:
            found.setdefault(match["run"], []).append((int(match["number"]), path))
    return {run: [path for _, path in sorted(files)] for run, files in found.items()}


def read_rows(folder: Place, table: str, runs: Collection[str], wanted: pa.Schema) -> pa.Table:
    """Return rows of some runs from a table of a data set.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
    """
    files = files_of(folder, table)
    batches: Iterator[pa.RecordBatch] = (
        batch
        for run in runs
        for path in files.get(run, ())
        for batch in read_batches(path, wanted, rows=_ROWS_AT_ONCE)
    )
    return pa.Table.from_batches(batches, schema=wanted)


def schema_of(table: str) -> pa.Schema:
    """Return the columns of a table of a data set."""
    return pa.schema([*DATASET_TABLES[table], PART, RUN])


def named(mapping: Mapping[str, str], column: pa.Array) -> pa.Array:
    """Return a column of run names, renamed by `mapping`."""
    coded = column.dictionary_encode()
    names = [
        None if name is None else mapping.get(name, name) for name in coded.dictionary.to_pylist()
    ]
    return pa.array(names, pa.string()).take(coded.indices)


class Shared(Enum):
    """Properties that the runs of two rows must share if the rows have the same subject.

    Attributes:
        NOTHING: the columns suffice, because a candidate's id is a hash of its whole definition.
        CONDITIONS: the task and the ladder, which define the number of a rung and of an example.
        RUN: the run: its rows record its actions, so only copies and later versions repeat them.
    """

    NOTHING = auto()
    CONDITIONS = auto()
    RUN = auto()


@dataclass(frozen=True)
class Claim:
    """Subject and findings of the rows of a table.

    Attributes:
        shared: properties that the runs of two rows must share.
        about: columns that identify the subject.
        says: columns that hold the findings.
        fails: the table has rows with an error; they have other subjects than rows without one.
    """

    shared: Shared
    about: tuple[str, ...]
    says: tuple[str, ...] = ()
    fails: bool = False


CLAIMS = {
    "candidates": Claim(
        Shared.NOTHING, ("candidate",), ("task", "model", "regime", "family", "spec")
    ),
    # By number of examples, because a candidate that lost a race was scored on fewer.
    "rungs": Claim(
        Shared.CONDITIONS,
        ("candidate", "rung", "split", "num_examples"),
        ("score", "program_bits", "payload_bits", "program", "base_digest"),
        fails=True,
    ),
    "predictions": Claim(
        Shared.CONDITIONS, ("candidate", "rung", "split", "example"), ("output", "score")
    ),
    "decisions": Claim(Shared.RUN, ("candidate", "rung", "order")),
    "programs": Claim(
        Shared.CONDITIONS, ("candidate", "rung", "program"), ("program_bits", "payload_bits")
    ),
    "verifications": Claim(
        Shared.CONDITIONS, ("program", "candidate", "split"), ("verified", "score")
    ),
    "openings": Claim(Shared.RUN, ("opening",)),
    "certificates": Claim(
        Shared.CONDITIONS,
        ("program", "candidate", "split", "opening", "base_digest"),
        ("score", "lower", "upper", "num_examples"),
        fails=True,
    ),
    "workers": Claim(Shared.RUN, ("worker", "host", "pid", "started_at")),
    # A later state of a run may know a shorter one, with or without the chat template.
    "bare": Claim(Shared.RUN, ("task", "model", "program_bits")),
    "points": Claim(Shared.RUN, ("line",)),
    "conflicts": Claim(Shared.RUN, _CONFLICT),
}
