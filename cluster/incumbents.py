"""Whom a candidate has to beat at a rung: written by the driver, read by the workers.

RUN/incumbents/MODEL-rRUNG-tLEFT.json is no record, only a message: it is written again from the
ledger when a run goes on, and a worker that finds none races with nobody. LEFT is the number of
rungs until no more training changes a candidate.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from evaluators.storage import Place, remove, write_whole
from search.racing import Incumbent

# Gives the incumbents of a base model at a rung, so many rungs before candidates are done.
IncumbentsReader = Callable[[str, int, int], Sequence[Incumbent]]


class Incumbents:
    """The messages of one attempt; those of earlier ones are taken away.

    Raises:
        OSError: if they can't be.
    """

    def __init__(self, run: Place) -> None:
        self._run = run
        self._told: dict[Place, Sequence[Incumbent]] = {}
        remove((run / "incumbents").glob("*"))

    def tell(self, model: str, rung: int, left: int, front: Sequence[Incumbent]) -> None:
        """Say whom candidates of `model` have to beat at `rung`, `left` rungs before they are done.

        Raises:
            OSError: if it can't be written.
        """
        path = _path(self._run, model, rung, left)
        if self._told.get(path, ()) != front:
            write_whole(path, json.dumps([asdict(one) for one in front]).encode())
            self._told[path] = front


def read_incumbents(run: Place, model: str, rung: int, left: int) -> tuple[Incumbent, ...]:
    """Return whom candidates of `model` have to beat at `rung`, `left` rungs before they are done.

    Raises:
        OSError, ValueError: if the file is there and can't be read.
    """
    try:
        content = _path(run, model, rung, left).read_text("utf-8")
    except FileNotFoundError:
        return ()
    return tuple(Incumbent(**one) for one in json.loads(content))


def _path(run: Place, model: str, rung: int, left: int) -> Place:
    # A label may hold what a file name may not.
    name = hashlib.sha256(model.encode()).hexdigest()[:16]
    return run / "incumbents" / f"{name}-r{rung}-t{left}.json"
