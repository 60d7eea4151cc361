"""Mailbox of the slots in use at each worker: written by the driver, read by the worker.

RUN/places/WORKER.json says how many candidates a worker has, and whether more may still come. From
it a worker knows when a batch is complete, whatever the speed of the processes in between, and so
the same search makes the same batches. It is only a message, not a record.
"""

import json
import re

from evaluators.storage import Place, remove, write_whole


class Places:
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
            write_whole(_path(self._run, worker), content.encode())
            self._told[worker] = (busy, more)


def is_complete(run: Place, worker: str, waiting: int) -> bool:
    """Return whether a worker expects no more candidates than the `waiting` ones.

    Raises:
        OSError, ValueError: if the message exists and can't be read.
    """
    try:
        told = json.loads(_path(run, worker).read_text("utf-8"))
    except FileNotFoundError:
        return True
    return waiting >= told["busy"] and not told["more"]


def _path(run: Place, worker: str) -> Place:
    return run / "places" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', worker)}.json"
