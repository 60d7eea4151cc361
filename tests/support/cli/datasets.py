"""Data sets that `aggregate` makes, and what their rows and their fronts say."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kilobit import launch

RIGHT = (1.0, 1.0, 1.0, 0.0)


WRONG = (0.0, 0.0, 0.0, 1.0)


# What tells where a row was read, not what it says.
NOT_SAID = {"run", "part", "finished_at"}


def aggregate(*words: str | Path) -> int:
    return launch.main(["aggregate", *map(str, words)])


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted((folder / table).glob("*.parquet")):
        found += pq.read_table(path).to_pylist()
    return found


def said(folder: Path, table: str) -> Counter[str]:
    """Return what the rows of a table say, whoever says it."""
    return Counter(
        str(sorted((key, str(value)) for key, value in row.items() if key not in NOT_SAID))
        for row in rows(folder, table)
    )


def front(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert launch.main(["front", *map(str, words), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
