"""Mailbox of the incumbents at a rung: written by the driver, read by the workers.

RUN/incumbents/MODEL-rRUNG-tLEFT.json is only a message, not a record: it is written again from the
ledger when a run resumes, and a worker that finds no file runs no races. LEFT is the number of
rungs until no more training changes a candidate.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from evaluators.storage import Place, remove, write_whole
from search.racing import Incumbent

# Takes the label of a base model, a rung and the rungs left; returns the incumbents.
IncumbentsReader = Callable[[str, int, int], Sequence[Incumbent]]


class Incumbents:
    """Mailbox of one attempt, for the driver; messages of earlier attempts are deleted.

    Raises:
        OSError: if they can't be deleted.
    """

    def __init__(self, run: Place) -> None:
        self._run = run
        self._told: dict[Place, Sequence[Incumbent]] = {}
        remove((run / "incumbents").glob("*"))

    def tell(self, model: str, rung: int, left: int, front: Sequence[Incumbent]) -> None:
        """Write the incumbents for candidates of `model` at `rung` with `left` rungs to go.

        Raises:
            OSError: if it can't be written.
        """
        path = _path(self._run, model, rung, left)
        if self._told.get(path, ()) != front:
            write_whole(path, json.dumps([asdict(one) for one in front]).encode())
            self._told[path] = front


def read_incumbents(run: Place, model: str, rung: int, left: int) -> tuple[Incumbent, ...]:
    """Return the incumbents for candidates of `model` at `rung` with `left` rungs to go.

    Raises:
        OSError, ValueError: if the file exists and can't be read.
    """
    try:
        content = _path(run, model, rung, left).read_text("utf-8")
    except FileNotFoundError:
        return ()
    return tuple(Incumbent(**one) for one in json.loads(content))


def _path(run: Place, model: str, rung: int, left: int) -> Place:
    # A label may contain characters that a file name may not.
    name = hashlib.sha256(model.encode()).hexdigest()[:16]
    return run / "incumbents" / f"{name}-r{rung}-t{left}.json"
