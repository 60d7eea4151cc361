"""What a worker has in hand, on disk, so that its successor knows what it died of.

A worker that dies is started again and asked the same things again. What was in its hands then is
run alone, and given up where workers keep dying of it; the others of its pack are not to blame.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from cluster.messages import EvaluatorSetup
from evaluators.storage import Place, place, write_whole

# A candidate at whose rung so many workers died is given up.
GIVEN_UP_AFTER = 3
# So is a worker that died so often one after the other. It takes more deaths than a candidate does
# that is run alone after its pack died.
_MOST_DEATHS = 2 * GIVEN_UP_AFTER


class WorkerGivenUpError(RuntimeError):
    """A worker died too often without finishing anything between."""


class InHand:
    """A worker's file in the folder `in_hand` of a run; deaths count within one attempt.

    Args:
        run: the run's folder.
        worker: its name.
        attempt: number of the attempt.
        node: where this process is; who died with its node died of nothing that it had in hand.

    Attributes:
        cause: what is known of the last death, to be put behind a sentence.
        in_a_row: workers that died one after the other, without finishing anything between.
        came_back: what the worker before it died of, to be put behind a sentence, empty where that
            is not known; None if it is the first of the attempt.

    Raises:
        OSError, ValueError: on construction, if there is a file that can't be read.
        WorkerGivenUpError: on construction, if so many died before.
    """

    def __init__(self, run: Place, worker: str, attempt: int, node: str = "") -> None:
        name = re.sub(r"[^\w.-]", "_", worker)
        self._path = run / "in_hand" / f"{name}.a{attempt}.json"
        self._node = node
        self._deaths: dict[str, int] = {}
        self._running: Sequence[str] = ()
        self.cause, self.in_a_row = "", 0
        self.came_back: str | None = None
        # Whether `cause` is what this very process is about to die of.
        self._blamed = False
        if self._path.exists():
            known = json.loads(self._path.read_text("utf-8"))
            self._deaths = {str(part): int(count) for part, count in known["deaths"].items()}
            stayed = known["node"] == node
            for part in known["running"] if stayed else []:
                self._deaths[part] = self._deaths.get(part, 0) + 1
            self.cause = str(known["cause"])
            self.came_back = self.cause if known["blamed"] else ""
            died = stayed and (known["starting"] or known["running"])
            self.in_a_row = int(known["in_a_row"]) + bool(died)
        # Until it has something in hand or is ready, it dies of its own start.
        self._starting = True
        self._write([])
        if self.in_a_row >= _MOST_DEATHS:
            raise WorkerGivenUpError(f"{worker} died {self.in_a_row} times in a row{self.cause}")

    def ready(self) -> None:
        """Say that the worker has started.

        Raises:
            OSError: if that can't be written.
        """
        self._starting = False
        self._write([])

    def deaths(self, part: str) -> int:
        """Return how many workers died while they had a rung in hand."""
        return self._deaths.get(part, 0)

    @contextmanager
    def holding(self, parts: Sequence[str]) -> Iterator[None]:
        """Say that rungs are in hand; who leaves alive forgets what they did to others.

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
        """Say what this process is about to die of.

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


def in_hand_of(setup: EvaluatorSetup) -> InHand:
    """Return what the earlier lives of a worker had in hand; see `InHand` for what is raised."""
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    return InHand(place(setup.run_folder), setup.worker, setup.attempt, node)
