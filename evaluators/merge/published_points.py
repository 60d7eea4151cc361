"""Published points in CSV, JSON Lines or Parquet files: imported, or drawn over a report.

For an import a mapping names the column of the file for each field, or sets a value for all rows:
`score=performance,payload_bits=bits,task:=gsm8k`. A point needs a score and a length; other fields
may be unknown. For an overlay fields are read from the columns of their names, or from others that
are named. Errors name file, line and column, and what is allowed.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kilobit.evaluators.merge.dataset import LINE, POINTS
from kilobit.evaluators.report.contents import Published
from kilobit.evaluators.text_files import csv_rows, json_objects

FIELDS = tuple(name for name in POINTS.names if name != LINE.name)
_LENGTHS = ("program_bits", "payload_bits")
_TEXTS = ("task", "model", "regime", "family", "candidate")
_SHARES = ("score", "lower", "upper")
# A column's name may hold a comma: it ends where the next field begins.
_NEXT = re.compile(rf",(?=\s*(?:{'|'.join(FIELDS)})\s*:?=)|,\s*$")
_ENTRY = re.compile(r"\s*(?P<field>\w+)\s*(?P<sign>:?=)(?P<what>.*)", re.DOTALL)
_UNKNOWN = re.compile(r",\s*(?P<field>\w+)\s*:?=")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSONL = (".jsonl", ".ndjson")
# A larger integer is not exact as a float, which most tools write.
_MOST_BITS = 1 << 53
_MOST_POINTS = 10_000

_Row = tuple[int, str, Mapping[str, Any]]


@dataclass(frozen=True)
class Mapped:
    """Sources of the fields of a point.

    Attributes:
        columns: column of the file by field.
        constants: value in all points by field.
    """

    columns: Mapping[str, str]
    constants: Mapping[str, str]


def parse_mapping(text: str) -> Mapped:
    """Parse the value of the option `--map`.

    Raises:
        ValueError: saying what is wrong with it, and what is allowed.
    """
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    for entry in _NEXT.split(text):
        match = _ENTRY.fullmatch(entry)
        if match is None or not match["what"].strip():
            raise ValueError(f"--map: {entry!r} is neither FIELD=COLUMN nor FIELD:=VALUE")
        name, what = match["field"], match["what"].strip()
        if name not in FIELDS:
            raise ValueError(_no_field(name))
        # Else a misspelt field would become a part of the column's name before it.
        unknown = _UNKNOWN.search(what)
        if unknown is not None:
            raise ValueError(_no_field(unknown["field"]))
        if name in columns or name in constants:
            raise ValueError(f"--map: {name} is given twice")
        (columns if match["sign"] == "=" else constants)[name] = what
    given = columns.keys() | constants.keys()
    if "score" not in given:
        raise ValueError("--map: score is needed: a column with numbers from 0 to 1")
    if not given & set(_LENGTHS):
        raise ValueError(
            "--map: program_bits or payload_bits is needed: a column with whole numbers"
        )
    return Mapped(columns, constants)


def _no_field(name: str) -> str:
    return f"--map: unknown field {name!r}; the fields are {', '.join(FIELDS)}"


def read_points(path: Path, mapped: Mapped) -> pa.Table:
    """Return the points in a file, one per row, with the columns of `POINTS`.

    Raises:
        ValueError: naming file, line and column, the value, and what is allowed.
    """
    found: dict[str, list[Any]] = {name: [] for name in POINTS.names}
    checked = False
    for number, where, row in _rows(path):
        if not checked:
            _check_columns(path, row, mapped)
            checked = True
        point = _point(row, mapped, where)
        for name, value in point.items():
            found[name].append(value)
        found[LINE.name].append(number)
    if not found["score"]:
        raise ValueError(f"{path}: the file holds no points")
    return pa.table(found, schema=POINTS)


def _rows(path: Path) -> Iterator[_Row]:
    suffix = path.suffix.lower()
    if suffix in (*_DELIMITERS, *_JSONL):
        rows = json_objects(path) if suffix in _JSONL else csv_rows(path, _DELIMITERS[suffix])
        return ((int(where.rpartition(" ")[2]), where, row) for where, row in rows)
    if suffix == ".parquet":
        return _parquet_rows(path)
    allowed = ", ".join([*_DELIMITERS, *_JSONL, ".parquet"])
    raise ValueError(f"{path}: unknown format; the name has to end in one of {allowed}")


def _parquet_rows(path: Path) -> Iterator[_Row]:
    try:
        file = pq.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, f"{path}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from error


def _check_columns(path: Path, row: Mapping[str, Any], mapped: Mapped) -> None:
    for name, column in mapped.columns.items():
        if column not in row:
            constant = f"; to use it as the value of all rows, write {name}:={column}"
            raise ValueError(
                f"{path}: no column {column!r} for {name}; there are "
                f"{', '.join(map(repr, row))}{constant}"
            )


def _point(row: Mapping[str, Any], mapped: Mapped, where: str) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for name in FIELDS:
        column = mapped.columns.get(name)
        value = mapped.constants.get(name) if column is None else row.get(column)
        origin = f"{where}, " + (f"--map {name}" if column is None else f"column {column!r}")
        point[name] = None if _is_unknown(value) else _parser(name)(value, origin)
    if point["score"] is None:
        named = mapped.columns.get("score", "score")
        raise ValueError(f"{where}, column {named!r}: a score from 0 to 1 is needed, found none")
    if all(point[name] is None for name in _LENGTHS):
        names = [mapped.columns[name] for name in _LENGTHS if name in mapped.columns]
        raise ValueError(f"{where}, column {' or '.join(map(repr, names))}: a length is needed")
    return point


def parse_columns(text: str | None) -> dict[str, str]:
    """Parse the value of `--columns`; a field without a column is read from that of its own name.

    Args:
        text: `bits=COLUMN,score=COLUMN,...`, or None.

    Raises:
        ValueError: naming the part that can't be used.
    """
    columns: dict[str, str] = {}
    for part in text.split(",") if text is not None else ():
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or name not in _OVERLAY or not column:
            raise ValueError(
                f"--columns: {part!r} can't be used: NAME=COLUMN is needed, where NAME is one of "
                f"{', '.join(_OVERLAY)}"
            )
        if name in columns:
            raise ValueError(f"--columns: {name} is given twice")
        columns[name] = column
    return columns


def read_overlay(path: Path, columns: Mapping[str, str]) -> list[Published]:
    """Return the points of a file that are drawn over a report.

    Args:
        path: the file.
        columns: column of each field. Points without a label form a curve with the name of the
            file.

    Raises:
        ValueError: naming the file, the line, the column and the value found.
    """
    found: list[Published] = []
    for _, where, row in _rows(path):
        if len(found) == _MOST_POINTS:
            raise ValueError(f"{path}: more than {_MOST_POINTS} points; no more can be drawn")
        drawn = _drawn(row, columns, where)
        drawn.setdefault("label", path.stem)
        found.append(Published(**drawn))
    if not found:
        raise ValueError(f"{path}: the file holds no points")
    return found


def _drawn(row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    found = {}
    for name, parse in _OVERLAY.items():
        column, needed = columns.get(name, name), name in _NEEDED
        if column not in row and (needed or name in columns):
            raise ValueError(
                f"{where}: no column {column!r}; there are {', '.join(map(repr, row))}. Name it "
                "with --columns bits=COLUMN,score=COLUMN"
            )
        if needed or not _is_unknown(row.get(column)):
            found[name] = parse(row[column], f"{where}, column {column!r}")
    return found


def _is_unknown(value: Any) -> bool:
    # pandas writes unknown values as an empty text or as NaN.
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan"))


def _parser(field: str) -> Callable[[Any, str], Any]:
    if field in _TEXTS:
        return _text
    return _share if field in _SHARES else _whole


def _text(value: Any, origin: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{origin}: a text is needed, found {value!r:.80}")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _share(value: Any, origin: str) -> float:
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        hint = "; divide percentages by 100" if number and 1 < number <= 100 else ""
        raise ValueError(f"{origin}: a number from 0 to 1 is needed, found {value!r:.80}{hint}")
    return number


def _length(value: Any, origin: str) -> float:
    number = _number(value)
    if number is None or number < 0:
        raise ValueError(f"{origin}: a length in bits of at least 0 is needed, found {value!r:.80}")
    return number


def _whole(value: Any, origin: str) -> int:
    number = _number(value)
    if number is None or not 0 <= number <= _MOST_BITS or number != int(number):
        raise ValueError(
            f"{origin}: a whole number from 0 to {_MOST_BITS} is needed, found {value!r:.80}"
        )
    return int(number)


# Fields of a point that is drawn, in the order in which messages name them.
_OVERLAY: dict[str, Callable[[Any, str], Any]] = {
    "bits": _length,
    "score": _share,
    "label": _text,
    "lower": _share,
    "upper": _share,
    "task": _text,
}
_NEEDED = ("bits", "score")
