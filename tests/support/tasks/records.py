"""Records of tasks, as files."""

import json
from pathlib import Path
from typing import Any


def write_jsonl(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
