"""Published curves from CSV or JSON Lines, with errors that name file, line and column."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kilobit.evaluators.report.contents import Published
from kilobit.evaluators.text_files import csv_rows, json_objects, read_file

NEEDED = ("bits", "score")
OPTIONAL = ("label", "lower", "upper", "task")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_MOST_POINTS = 10_000
_MOST_BYTES = 1 << 26


def parse_columns(text: str | None) -> dict[str, str]:
    """Parse the value of `--columns`; a field without a column is read from that of its own name.

    Args:
        text: `bits=COLUMN,score=COLUMN,...`, or None.

    Raises:
        ValueError: naming the part that can't be used.
    """
    columns: dict[str, str] = {}
    for part in (text or "").split(",") if text is not None else ():
        name, equals, column = part.partition("=")
        name, column = name.strip(), column.strip()
        if not equals or name not in (*NEEDED, *OPTIONAL) or not column:
            raise ValueError(
                f"--columns: {part!r} can't be used: NAME=COLUMN is needed, where NAME is one of "
                f"{', '.join((*NEEDED, *OPTIONAL))}"
            )
        if name in columns:
            raise ValueError(f"--columns: {name} is given twice")
        columns[name] = column
    return columns


def read_overlay(path: Path, columns: Mapping[str, str]) -> list[Published]:
    """Return the points of a file.

    Args:
        path: a CSV file with a header, or JSON Lines with one object per line.
        columns: column of each field. Points without a label form a curve with the name of the
            file.

    Raises:
        ValueError: naming the file, the line, the column and the value found.
    """
    rows = list(_rows(path))
    if not rows:
        raise ValueError(f"{path}: the file holds no points")
    if len(rows) > _MOST_POINTS:
        raise ValueError(f"{path}: {len(rows)} points; at most {_MOST_POINTS} can be drawn")
    return [_point(path, where, row, columns) for where, row in rows]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    kind = path.suffix.lower()
    if kind not in (*_DELIMITERS, *_JSON_LINES):
        known = ", ".join((*_DELIMITERS, *_JSON_LINES))
        raise ValueError(f"{path}: the name has to end in one of {known}")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if kind in _JSON_LINES:
        return json_objects(path, read_file(path, _MOST_BYTES))
    return csv_rows(path, _DELIMITERS[kind], _MOST_BYTES)


def _point(path: Path, where: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> Published:
    bits = _number(where, row, columns.get("bits", "bits"), "a length in bits of at least 0")
    score = _share(where, row, columns.get("score", "score"))
    found: dict[str, Any] = {}
    for name in ("lower", "upper"):
        if _given(where, row, columns, name):
            found[name] = _share(where, row, columns.get(name, name))
    for name in ("label", "task"):
        if _given(where, row, columns, name):
            found[name] = str(row[columns.get(name, name)]).strip()
    return Published(found.pop("label", path.stem), bits, score, **found)


def _given(where: str, row: Mapping[str, Any], columns: Mapping[str, str], name: str) -> bool:
    """Return whether a row has an optional value; an empty cell has none.

    Raises:
        ValueError: if `columns` names a column that is missing.
    """
    column = columns.get(name, name)
    if column not in row and name in columns:
        raise _missing(where, row, column)
    value = row.get(column)
    return value is not None and str(value).strip() != ""


def _share(where: str, row: Mapping[str, Any], column: str) -> float:
    value = _number(where, row, column, "a number from 0 to 1")
    if value > 1:
        raise ValueError(
            f"{where}, column {column!r}: found {row[column]!r:.60}; a number from 0 to 1 is "
            "needed: divide a percentage by 100"
        )
    return value


def _number(where: str, row: Mapping[str, Any], column: str, needed: str) -> float:
    if column not in row:
        raise _missing(where, row, column)
    found = row[column]
    value = math.nan
    if isinstance(found, str | int | float) and not isinstance(found, bool):
        try:
            value = float(found)
        except (ValueError, OverflowError):
            value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{where}, column {column!r}: found {found!r:.60}; {needed} is needed")
    return value


def _missing(where: str, row: Mapping[str, Any], column: str) -> ValueError:
    there: Sequence[str] = [repr(name)[:60] for name in row]
    return ValueError(
        f"{where}: no column {column!r}; there are {', '.join(there)}. Name it with --columns "
        f"bits=COLUMN,score=COLUMN"
    )
