"""Crash log of a worker: the rungs it was running, on disk, for the process that replaces it.

A worker that dies is restarted, and the same rungs are requested again. Those that it was running
are then run alone, and given up if workers keep dying on them; the other candidates of the batch
are not to blame.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.evaluators.ledger.storage import Place, place, read_json, write_whole

# A candidate is given up at a rung at which this many workers died.
GIVEN_UP_AFTER = 3
# A worker is given up after this many deaths in a row: more than a candidate can cause that is run
# alone after its batch died.
_MOST_DEATHS = 2 * GIVEN_UP_AFTER


class CrashLog:
    """Crash log of a worker, in the folder `in_hand` of a run; deaths count within one attempt.

    Args:
        run: the run's folder.
        worker: name of the worker.
        attempt: number of the attempt.
        node: of this process; a worker that died with its node did not die of its rungs.

    Attributes:
        cause: reason of the last crash, formatted as a sentence suffix.
        in_a_row: number of deaths in a row, without a finished rung in between.
        came_back: reason for which the previous process of this worker died, formatted as a
            sentence suffix, empty if unknown; None in the first process of the attempt.

    Raises:
        OSError, ValueError: on construction, if the file exists and can't be read.
        RuntimeError: on construction, after too many deaths in a row.
    """

    def __init__(self, run: Place, worker: str, attempt: int, node: str = "") -> None:
        name = re.sub(r"[^\w.-]", "_", worker)
        self._path = run / "in_hand" / f"{name}.a{attempt}.json"
        self._node = node
        self._deaths: dict[str, int] = {}
        self._running: Sequence[str] = ()
        self.cause, self.in_a_row = "", 0
        self.came_back: str | None = None
        # Whether `cause` is the reason for which this process itself is about to die.
        self._blamed = False
        if self._path.exists():
            known = read_json(self._path)
            self._deaths = {str(part): int(count) for part, count in known["deaths"].items()}
            stayed = known["node"] == node
            for part in known["running"] if stayed else []:
                self._deaths[part] = self._deaths.get(part, 0) + 1
            self.cause = str(known["cause"])
            self.came_back = self.cause if known["blamed"] else ""
            died = stayed and (known["starting"] or known["running"])
            self.in_a_row = int(known["in_a_row"]) + bool(died)
        # A death before it is ready or runs a rung counts as a failed start.
        self._starting = True
        self._write([])
        if self.in_a_row >= _MOST_DEATHS:
            raise RuntimeError(f"{worker} died {self.in_a_row} times in a row{self.cause}")

    def ready(self) -> None:
        """Record that the worker has started.

        Raises:
            OSError: if that can't be written.
        """
        self._starting = False
        self._write([])

    def deaths(self, part: str) -> int:
        """Return how many workers died while they ran a rung."""
        return self._deaths.get(part, 0)

    @contextmanager
    def holding(self, parts: Sequence[str]) -> Iterator[None]:
        """Record that rungs are running; if the process survives, clear the deaths of those rungs.

        Raises:
            OSError: if that can't be written.
        """
        self._starting = False
        self._write(parts)
        try:
            yield
        finally:
            for part in parts:
                self._deaths.pop(part, None)
            self.in_a_row = 0
            self._write([])

    def blame(self, cause: str) -> None:
        """Record the reason for which this process is about to die.

        Raises:
            OSError: if that can't be written.
        """
        self.cause, self._blamed = f": {cause}", True
        self._write(self._running)

    def _write(self, running: Sequence[str]) -> None:
        self._running = running
        content = {
            "running": list(running),
            "node": self._node,
            "starting": self._starting,
            "deaths": self._deaths,
            "cause": self.cause,
            "blamed": self._blamed,
            "in_a_row": self.in_a_row,
        }
        write_whole(self._path, json.dumps(content).encode())


def crash_log_of(setup: EvaluatorSetup) -> CrashLog:
    """Return the crash log of a worker; raises what `CrashLog` raises."""
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    return CrashLog(place(setup.run_folder), setup.worker, setup.attempt, node)
