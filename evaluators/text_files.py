r"""The user's text files: JSON, JSON Lines, CSV, and one text a line.

Files are UTF-8, with or without a byte order mark at the start. Only \n and \r\n end a line: line
separators of Unicode, form feeds and the like are text. A number of a JSON file is equal to its
value and prints as it is spelled (`Spelled`), so that 0.00001 in a prompt does not become 1e-05.
What is not JSON to the letter (NaN, a key given twice, half of a surrogate pair, text after the
value) or is nested more than 100 levels deep is an error. Errors name file and line.
"""

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from kilobit.evaluators.ledger.storage import Place, read_regular

# Only lines with one of these need a look at each of their values.
_SUSPICIOUS = re.compile(r"\\u[dD][89a-fA-F]|NaN|Infinity")
_DEEPEST = 100
# Values take several times as much memory as their text.
_MOST_BYTES = 2 << 30


class Spelled(float):
    """A number that prints as the file spells it."""

    __slots__ = ("_spelling",)
    _spelling: str

    def __new__(cls, spelling: str) -> "Spelled":
        """Return the number of a spelling."""
        number = super().__new__(cls, spelling)
        number._spelling = spelling
        return number

    def __str__(self) -> str:
        """Return the spelling."""
        return self._spelling


def number_text(number: float) -> str:
    """Return a number as it is spelled in its file, or in digits without an exponent."""
    plain = isinstance(number, int | Spelled) or not math.isfinite(number)
    return str(number) if plain else f"{Decimal(repr(number)):f}"


def read_file(path: Place, most_bytes: int = _MOST_BYTES) -> bytes:
    """Return the content of a file without its byte order mark.

    Raises:
        ValueError: naming the file, if it can't be read, is larger, or is no regular file.
    """
    try:
        content = read_regular(path, most_bytes)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return content.removeprefix(codecs.BOM_UTF8)


def json_lines(path: Place, content: bytes | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the value of each line of a JSON Lines file with its origin; skip blank lines.

    Args:
        path: the file.
        content: its content, if that has been read already.

    Raises:
        ValueError: with file and line, if the file can't be read or a line is not JSON.
    """
    content = read_file(path) if content is None else content.removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, parsed(line, where)


def json_objects(path: Place, content: bytes | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the object of each line of a JSON Lines file, as `json_lines` does.

    Raises:
        ValueError: with file and line, also if a line holds no object.
    """
    for where, value in json_lines(path, content):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: a JSON object is needed, found a {type(value).__name__}")
        yield where, value


def parsed(content: bytes, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: naming `where`, if it is not JSON.
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=Spelled,
            parse_int=_whole,
            parse_constant=Spelled,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if _SUSPICIOUS.search(text) or text.count("[") + text.count("{") > _DEEPEST:
        _check(value, where)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {_twice(name for name, _ in pairs)!r:.60} is given twice")
    return found


def _twice(names: Iterable[str]) -> str | None:
    """Return the first name that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _whole(spelling: str) -> float:
    return Spelled(spelling) if spelling == "-0" else int(spelling)


def _check(value: Any, where: str) -> None:
    """Check each text and number of a value, and its depth; see the module's docstring."""
    waiting = [(value, 1, where)]
    while waiting:
        value, depth, origin = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(f"{where}: not JSON: nested more than {_DEEPEST} levels deep")
        if isinstance(value, dict):
            waiting += [(name, depth, origin) for name in value]
            waiting += [
                (one, depth + 1, f"{where}: field {name!r}" if depth == 1 else origin)
                for name, one in value.items()
            ]
        elif isinstance(value, list):
            waiting += [(one, depth + 1, origin) for one in value]
        elif isinstance(value, Spelled) and str(value).endswith(("NaN", "Infinity")):
            raise ValueError(f"{origin} is not JSON: found {value}")
        elif isinstance(value, str) and value.encode("utf-8", "ignore").decode() != value:
            raise ValueError(f"{origin} holds half of a surrogate pair, which is not valid text")


def text_lines(path: Place, most_bytes: int = _MOST_BYTES) -> list[str]:
    r"""Return the lines of a text file without line ends; only \n and \r\n end a line.

    Raises:
        ValueError: with file and line, if it can't be read or is not UTF-8.
    """
    found = []
    for number, line in enumerate(read_file(path, most_bytes).removesuffix(b"\n").split(b"\n"), 1):
        found.append(_decoded(line, f"{path}, line {number}").removesuffix("\r"))
    return found


def csv_rows(
    path: Path, delimiter: str, most_bytes: int = _MOST_BYTES
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the cells of each row of a CSV file by the names in its first row, with their origin.

    Raises:
        ValueError: with file and line, if the file can't be read, is not CSV, or a row has more or
            fewer cells than the first one.
    """
    text = _decoded(read_file(path, most_bytes), str(path))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    try:
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = [name.strip() for name in row]
                twice = _twice(names)
                if twice is not None:
                    raise ValueError(f"{where}: two columns are called {twice!r:.60}")
                continue
            if len(row) != len(names):
                raise ValueError(
                    f"{where}: {len(row)} values, but the header names {len(names)} columns"
                )
            yield where, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: not CSV: {error}") from error


def _decoded(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 at byte {error.start}") from error
    if "\0" in text:
        raise ValueError(f"{where}: holds the character NUL, which is not valid text")
    return text
