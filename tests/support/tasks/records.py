"""Records of tasks, as files."""

import json
from pathlib import Path
from typing import Any


def write_jsonl(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def numbers(first: int, last: int) -> list[dict[str, Any]]:
    return [{"input": f"{i} + 1 =", "target": i + 1} for i in range(first, last)]
