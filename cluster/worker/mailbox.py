"""Mailboxes from the driver to the workers: incumbents at a rung, and slots in use.

The driver writes them, the workers read them. RUN/incumbents/MODEL-rRUNG-tLEFT.json is only a
message, not a record: it is written again from the ledger when a run resumes, and a worker that
finds no file runs no races. LEFT is the number of rungs until no more training changes a candidate.

RUN/places/WORKER.json says how many candidates a worker has, and whether more may still come. From
it a worker knows when a batch is complete, whatever the speed of the processes in between, and so
the same search makes the same batches. It is only a message, not a record.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict

from kilobit.evaluators.ledger.storage import Place, remove, write_whole
from kilobit.search.schedulers.racing import Incumbent

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
        path = _incumbents_path(self._run, model, rung, left)
        if self._told.get(path, ()) != front:
            write_whole(path, json.dumps([asdict(one) for one in front]).encode())
            self._told[path] = front


def read_incumbents(run: Place, model: str, rung: int, left: int) -> tuple[Incumbent, ...]:
    """Return the incumbents for candidates of `model` at `rung` with `left` rungs to go.

    Raises:
        OSError, ValueError: if the file exists and can't be read.
    """
    try:
        content = _incumbents_path(run, model, rung, left).read_text("utf-8")
    except FileNotFoundError:
        return ()
    return tuple(Incumbent(**one) for one in json.loads(content))


def _incumbents_path(run: Place, model: str, rung: int, left: int) -> Place:
    # A label may contain characters that a file name may not.
    name = hashlib.sha256(model.encode()).hexdigest()[:16]
    return run / "incumbents" / f"{name}-r{rung}-t{left}.json"


class Slots:
    """Mailbox of all workers, for the driver; messages of an earlier attempt are deleted.

    Args:
        run: the run's folder.
        size: slots of each worker.

    Raises:
        OSError: if the old messages can't be deleted.
    """

    def __init__(self, run: Place, size: int) -> None:
        self._run, self._size = run, size
        self._told: dict[str, tuple[int, bool]] = {}
        remove((run / "places").glob("*"))

    def tell(self, worker: str, busy: int, *, more: bool) -> None:
        """Write how many candidates a worker has, and whether more may come.

        Raises:
            OSError: if it can't be written.
        """
        more = more and busy < self._size
        if self._size > 1 and self._told.get(worker) != (busy, more):
            content = json.dumps({"busy": busy, "more": more})
            write_whole(_slots_path(self._run, worker), content.encode())
            self._told[worker] = (busy, more)


def is_complete(run: Place, worker: str, waiting: int) -> bool:
    """Return whether a worker expects no more candidates than the `waiting` ones.

    Raises:
        OSError, ValueError: if the message exists and can't be read.
    """
    try:
        told = json.loads(_slots_path(run, worker).read_text("utf-8"))
    except FileNotFoundError:
        return True
    return waiting >= told["busy"] and not told["more"]


def _slots_path(run: Place, worker: str) -> Place:
    return run / "places" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', worker)}.json"
