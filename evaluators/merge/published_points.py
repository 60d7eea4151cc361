"""Published points in CSV, JSON Lines or Parquet files: imported, or drawn over a report.

For an import a mapping names the column of the file for each field, or sets a value for all rows:
`score=performance,payload_bits=bits,task:=gsm8k`. `score%=bleu` divides by 100, `model/=path` takes
the last part of a path, and `benchmark==gsm8k|math` (or `!=`) takes only those rows; of several
mappings the first that takes a row reads it. A point needs a score and a length; other fields may
be unknown. For an overlay fields are read from the columns of their names, or from others that are
named. Errors name file, line and column, and what is allowed; those of an import come ten at once.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kilobit.evaluators.ledger.storage import read_regular
from kilobit.evaluators.merge.dataset import LINE, POINTS
from kilobit.evaluators.report.contents import Published
from kilobit.evaluators.text_files import csv_rows, json_objects
from kilobit.search.settings import Ruler

FIELDS = tuple(name for name in POINTS.names if name != LINE.name)
_LENGTHS = ("program_bits", "payload_bits")
_TEXTS = ("task", "model", "regime", "family", "candidate")
_SHARES = ("score", "lower", "upper")
# A column's name may hold a comma: it ends where the next field or condition begins.
_NEXT = re.compile(rf",(?=\s*(?:{'|'.join(FIELDS)})\s*[:%/]?=(?!=))|,(?=[^,=!]+[=!]=)|,\s*$")
_ENTRY = re.compile(r"\s*(?P<field>\w+)\s*(?P<sign>[:%/]?=)(?P<what>.*)", re.DOTALL)
_CONDITION = re.compile(r"\s*(?P<column>[^=!]+?)\s*(?P<sign>[=!]=)(?P<what>.*)", re.DOTALL)
_UNKNOWN = re.compile(r",\s*(?P<field>\w+)\s*[:%/]?=")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSONL = (".jsonl", ".ndjson")
# A larger integer is not exact as a float, which most tools write.
_MOST_BITS = 1 << 53
_MOST_POINTS, _MOST_ROWS = 10_000, 100_000
_MOST_ERRORS, _MOST_NAMES, _MOST_BYTES = 10, 100, 1 << 30
_DIVIDE = "divide percentages by 100"

_Row = tuple[int, str, Mapping[str, Any]]


@dataclass(frozen=True)
class Mapped:
    """Sources of the fields of a point.

    Attributes:
        text: the mapping as it was given.
        columns: column of the file by field.
        constants: value in all points by field.
        percent: fields whose column holds percentages, or BLEU from 0 to 100.
        last: fields whose column holds paths, of which the last part counts.
        conditions: column, whether it has to hold one of the values or none, and the values.
    """

    text: str
    columns: Mapping[str, str]
    constants: Mapping[str, str]
    percent: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    conditions: tuple[tuple[str, bool, frozenset[str]], ...] = ()

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row meets the conditions."""
        return all(
            (str(row.get(column)).strip() in values) == equal
            for column, equal, values in self.conditions
        )


@dataclass(frozen=True)
class Import:
    """Mappings and names by which a file of published points is read.

    Attributes:
        mappings: tried in order; the first that takes a row reads it.
        names: new names by field and name in the file, for fields that are texts.
        script_bits: by family, bits of a program besides its payload; they give the program bits
            of points whose payload bits alone are known.
    """

    mappings: tuple[Mapped, ...]
    names: Mapping[tuple[str, str], str]
    script_bits: Mapping[str, int]


def parse_import(
    mappings: Sequence[str], names: Sequence[str] = (), script_bits: Sequence[str] = ()
) -> Import:
    """Parse the options `--map`, `--rename` and `--script-bits`.

    Raises:
        ValueError: saying what is wrong with one, and what is allowed.
    """
    renamed: dict[tuple[str, str], str] = {}
    for text in names:
        field, _, rest = text.partition(":")
        old, equals, new = (part.strip() for part in rest.rpartition("="))
        if field.strip() not in _TEXTS or not (old and equals and new):
            raise ValueError(
                f"--rename: {text!r} is not FIELD:OLD=NEW, where FIELD is one of "
                f"{', '.join(_TEXTS)}"
            )
        renamed[field.strip(), old] = new
    bits: dict[str, int] = {}
    for text in script_bits:
        family, equals, number = (part.strip() for part in text.rpartition("="))
        if not family or not equals:
            raise ValueError(f"--script-bits: {text!r} is not FAMILY=BITS")
        bits[family] = _whole(number, f"--script-bits {family}")
    return Import(tuple(map(parse_mapping, mappings)), renamed, bits)


def parse_mapping(text: str) -> Mapped:
    """Parse one value of the option `--map`.

    Raises:
        ValueError: saying what is wrong with it, and what is allowed.
    """
    by_sign: dict[str, dict[str, str]] = {"=": {}, ":=": {}, "%=": {}, "/=": {}}
    conditions: list[tuple[str, bool, frozenset[str]]] = []
    for entry in _NEXT.split(text):
        condition = _CONDITION.fullmatch(entry)
        if condition is None:
            name, sign, what = _entry(entry)
            if any(name in each for each in by_sign.values()):
                raise ValueError(f"--map: {name} is given twice")
            by_sign[sign][name] = what
        else:
            values = frozenset(value.strip() for value in condition["what"].split("|"))
            conditions.append((condition["column"], condition["sign"] == "==", values))
    given = set().union(*by_sign.values())
    if "score" not in given:
        raise ValueError("--map: score is needed: a column with numbers from 0 to 1")
    if not given & set(_LENGTHS):
        raise ValueError(
            "--map: program_bits or payload_bits is needed: a column with whole numbers"
        )
    constants = by_sign.pop(":=")
    percent, last = frozenset(by_sign["%="]), frozenset(by_sign["/="])
    columns = {name: what for each in by_sign.values() for name, what in each.items()}
    return Mapped(text, columns, constants, percent, last, tuple(conditions))


def _entry(entry: str) -> tuple[str, str, str]:
    """Return field, sign and column or value of an entry of a mapping."""
    match = _ENTRY.fullmatch(entry)
    if match is None or not match["what"].strip():
        raise ValueError(f"--map: {entry!r} is neither FIELD=COLUMN nor FIELD:=VALUE")
    name, sign, what = match["field"], match["sign"], match["what"].strip()
    if name not in FIELDS:
        raise ValueError(_no_field(name))
    # Else a misspelt field would become a part of the column's name before it.
    unknown = _UNKNOWN.search(what)
    if unknown is not None:
        raise ValueError(_no_field(unknown["field"]))
    fitting = {"%=": _SHARES, "/=": _TEXTS}.get(sign)
    if fitting is not None and name not in fitting:
        raise ValueError(f"--map: {name}{sign} can't be used: it is for {', '.join(fitting)}")
    return name, sign, what


def _no_field(name: str) -> str:
    return f"--map: unknown field {name!r}; the fields are {', '.join(FIELDS)}"


def read_points(path: Path, wanted: Import) -> tuple[pa.Table, int]:
    """Return the points in a file, with the columns of `POINTS`, and how many rows no mapping took.

    Raises:
        ValueError: naming file, line and column, the value, and what is allowed, a line for each
            of the first ten errors.
    """
    found: list[dict[str, Any]] = []
    errors: list[str] = []
    unused = [*wanted.mappings]
    seen: dict[str, set[str]] = {name: set() for name in _TEXTS}
    left_out, first = 0, True
    try:
        for number, where, row in _rows(path):
            if number > _MOST_ROWS:
                raise ValueError(f"{path}: more than {_MOST_ROWS} rows")
            if first:
                _check_columns(path, row, wanted.mappings)
                first = False
            mapped = next((one for one in wanted.mappings if one.takes(row)), None)
            if mapped is None:
                left_out += 1
                continue
            unused = [one for one in unused if one is not mapped]
            point = _point(row, mapped, where, errors)
            if len(errors) >= _MOST_ERRORS:
                break
            _rename(point, wanted, seen)
            found.append(point | {LINE.name: number})
    except ValueError as error:
        errors.append(str(error))
    if not errors and not found and not left_out:
        errors.append(f"{path}: the file holds no points")
    if not errors:
        errors += [f"--map {one.text}: it takes no row of {path}" for one in unused]
        errors += [
            f"--rename {field}:{old}: no point of {path} has this {field}"
            for field, old in wanted.names
            if old not in seen[field]
        ]
        named = {point["family"] for point in found}
        errors += [
            f"--script-bits {family}: no point of {path} has this family"
            for family in wanted.script_bits
            if family not in named
        ]
    if errors:
        more = "\n(no more than ten errors are listed)" if len(errors) >= _MOST_ERRORS else ""
        raise ValueError("\n".join(errors[:_MOST_ERRORS]) + more)
    return pa.Table.from_pylist(found, schema=POINTS), left_out


def _rename(point: dict[str, Any], wanted: Import, seen: Mapping[str, set[str]]) -> None:
    """Set the new names of a point and, from its payload, its program bits."""
    for field in _TEXTS:
        if point[field] is not None:
            seen[field].add(point[field])
            point[field] = wanted.names.get((field, point[field]), point[field])
    script = wanted.script_bits.get(point["family"] or "")
    if script is not None and point["program_bits"] is None and point["payload_bits"] is not None:
        point["program_bits"] = point["payload_bits"] + script


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
        file = pq.ParquetFile(pa.BufferReader(read_regular(path, _MOST_BYTES)))
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, f"{path}, row {number}", row
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from error


def _check_columns(path: Path, row: Mapping[str, Any], mappings: Sequence[Mapped]) -> None:
    there = ", ".join([*map(repr, islice(row, _MOST_NAMES)), *["..."] * (len(row) > _MOST_NAMES)])
    for mapped in mappings:
        for name, column in mapped.columns.items():
            if column not in row:
                constant = f"; to use it as the value of all rows, write {name}:={column}"
                raise ValueError(
                    f"{path}: no column {column!r} for {name}; there are {there}{constant}"
                )
        for column, *_ in mapped.conditions:
            if column not in row:
                raise ValueError(f"{path}: no column {column!r} of --map; there are {there}")


def _point(row: Mapping[str, Any], mapped: Mapped, where: str, errors: list[str]) -> dict[str, Any]:
    """Return the point of a row; what is wrong with it is added to the errors."""
    point: dict[str, Any] = dict.fromkeys(FIELDS)
    before = len(errors)
    for name in FIELDS:
        column = mapped.columns.get(name)
        value = mapped.constants.get(name) if column is None else row.get(column)
        origin = f"{where}, " + (f"--map {name}" if column is None else f"column {column!r}")
        if _is_unknown(value):
            continue
        try:
            if name in mapped.percent:
                point[name] = _percent(value, origin)
            else:
                point[name] = _parser(name)(value, origin)
        except ValueError as error:
            # The message of an overlay, which has no such sign.
            hint = f"write {name}%={column} for percentages and BLEU from 0 to 100"
            errors.append(str(error).replace(_DIVIDE, hint))
        if name in mapped.last and point[name] is not None:
            point[name] = point[name].rstrip("/").rpartition("/")[2]
    if len(errors) > before:
        return point
    if point["score"] is None:
        named = mapped.columns.get("score", "score")
        errors.append(f"{where}, column {named!r}: a score from 0 to 1 is needed, found none")
    if all(point[name] is None for name in _LENGTHS):
        names = [mapped.columns[name] for name in _LENGTHS if name in mapped.columns]
        errors.append(f"{where}, column {' or '.join(map(repr, names))}: a length is needed")
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
        if not equals or name not in (*_OVERLAY, *_AS_MAPPED) or not column:
            raise ValueError(
                f"--columns: {part!r} can't be used: NAME=COLUMN is needed, where NAME is one of "
                f"{', '.join((*_OVERLAY, *_AS_MAPPED))}"
            )
        if name in columns:
            raise ValueError(f"--columns: {name} is given twice")
        columns[name] = column
    return columns


def read_overlay(
    path: Path, columns: Mapping[str, str], length: Ruler = "program"
) -> list[Published]:
    """Return the points of a file that are drawn over a report.

    Args:
        path: the file.
        columns: column of each field. Points without a label form a curve with the name of the
            file. The names of the fields of an import do too: `program_bits` or `payload_bits`, as
            the length says, for bits, and `model` for the label.
        length: the length that is drawn.

    Raises:
        ValueError: naming the file, the line, the column and the value found.
    """
    found: list[Published] = []
    for _, where, row in _rows(path):
        if len(found) == _MOST_POINTS:
            raise ValueError(f"{path}: more than {_MOST_POINTS} points; no more can be drawn")
        drawn = _drawn(row, _named(columns, row, length), where)
        drawn.setdefault("label", path.stem)
        found.append(Published(**drawn))
    if not found:
        raise ValueError(f"{path}: the file holds no points")
    return found


def _named(columns: Mapping[str, str], row: Mapping[str, Any], length: Ruler) -> dict[str, str]:
    """Return the columns of the fields, also where they have the names of an import's fields."""
    found = {name: column for name, column in columns.items() if name in _OVERLAY}
    for name, also in (("bits", f"{length}_bits"), ("label", "model")):
        if name not in found and also in columns:
            found[name] = columns[also]
        elif name not in found and name not in row and also in row:
            found[name] = also
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
        hint = f"; {_DIVIDE}" if number and 1 < number <= 100 else ""
        raise ValueError(f"{origin}: a number from 0 to 1 is needed, found {value!r:.80}{hint}")
    return number


def _percent(value: Any, origin: str) -> float:
    number = _number(value)
    if number is None or not 0 <= number <= 100:
        raise ValueError(f"{origin}: a number from 0 to 100 is needed, found {value!r:.80}")
    return number / 100


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
# Fields of an import that an overlay has under another name.
_AS_MAPPED = ("program_bits", "payload_bits", "model")
