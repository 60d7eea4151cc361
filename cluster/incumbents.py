"""Whom a candidate has to beat at a rung: written by the driver, read by the workers.

RUN/incumbents/MODEL-rRUNG.json is no record, only a message: it is written again from the ledger
when a run goes on, and a worker that finds none races with nobody.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from evaluators.ledger import write_whole
from search.racing import Incumbent


def write_incumbents(run: Path, model: str, rung: int, front: Sequence[Incumbent]) -> None:
    """Say whom candidates of `model` have to beat at `rung`.

    Raises:
        OSError: if it can't be written.
    """
    content = json.dumps([asdict(incumbent) for incumbent in front])
    write_whole(_path(run, model, rung), content.encode())


def read_incumbents(run: Path, model: str, rung: int) -> tuple[Incumbent, ...]:
    """Return whom candidates of `model` have to beat at `rung`.

    Raises:
        OSError, ValueError: if the file is there and can't be read.
    """
    try:
        content = _path(run, model, rung).read_text("utf-8")
    except FileNotFoundError:
        return ()
    return tuple(Incumbent(**one) for one in json.loads(content))


def _path(run: Path, model: str, rung: int) -> Path:
    # A label may hold what a file name may not.
    name = hashlib.sha256(model.encode()).hexdigest()[:16]
    return run / "incumbents" / f"{name}-r{rung}.json"
