"""Verification of programs that stand on the front while the search goes on.

Up to two programs at a time run on this machine, with processor time that no other process wants
and in memory that is free, so they take nothing from workers. Only what is verified is kept: a
program may have failed for lack of time or memory, and is run again after the search. Nothing runs
beside a search on a cluster, or with base models on GPUs: all that is there belongs to workers.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Self

from kilobit.cluster.fleet.crew import SIZE_COLUMNS, Crew, weights_of
from kilobit.cluster.messages import last_line
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.runs.fronts import RunFront
from kilobit.evaluators.cpus_and_memory import cpus, free_memory
from kilobit.evaluators.proof.verify import Verifier
from kilobit.search.front.points import FrontPoint
from kilobit.search.records import VerificationRecord, WorkerRecord

_LOG = logging.getLogger("kilobit")
_Key = tuple[str, str | None]
# Programs that run at once.
_AT_ONCE = 2
# Other users of this machine may leave nothing to an idle program: after the search it is waited
# for no longer, and run again as others are.
_PATIENCE_S = 10.0
# A long ledger takes long to read: it is read for this share of the time at most.
_LOOKING = 0.05
# Copies of a model's weights that its digest and the programs need for a while, and the bytes that
# they need besides or that have to stay free.
_COPIES, _BESIDES = 4, 4 << 30


class Beside:
    """Verification beside a search; see the module's docstring.

    Args:
        run: the run.
        address: of its cluster, None on this machine.
        open_verifier: opens a verifier of its programs and the crew that runs them.

    Attributes:
        opened: both, once something has begun.
    """

    def __init__(
        self,
        run: RunFolder,
        address: str | None,
        open_verifier: Callable[[], AbstractContextManager[tuple[Verifier, Crew]]],
    ) -> None:
        self._run, self._open = run, open_verifier
        self._has_room = address is None and all(m.device == "cpu" for m in run.sweep.base_models)
        self.opened: tuple[Verifier, Crew] | None = None
        self._stack, self._news, self._over = ExitStack(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._until_over, daemon=True)
        self._pool = ThreadPoolExecutor(min(_AT_ONCE, cpus() // run.sweep.workers.threads) or 1)
        self._front: set[_Key] = set()
        self._begun: dict[_Key, Future[VerificationRecord | None]] = {}
        self._until = 0.0

    def look(self) -> None:
        """Begin, before a search; then look for programs when a candidate has completed it.

        Raises:
            InputError: if the run's data are missing or have changed.
        """
        if self._has_room and self.opened is None:
            self.opened = self._stack.enter_context(self._open())
            self.opened[1].call("warm")
            self._thread.start()
        self._news.set()

    def end(self) -> None:
        """Begin no other program."""
        self._until = time.monotonic() + _PATIENCE_S
        self._over.set()
        self._news.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self.opened is not None:
            self._thread.join()
            self._pool.shutdown(wait=False, cancel_futures=True)
            if not all(future.done() for future in self._begun.values()):
                self.opened[1].interrupt()
        self._pool.shutdown()
        self._stack.close()

    def verify(self, point: FrontPoint) -> VerificationRecord:
        """Verify a program after the search, or return the verdict on it from beside the search."""
        assert self.opened is not None
        begun, found = self._begun.get((point.candidate, point.program)), None
        if begun is not None and not begun.cancel():
            try:
                found = begun.result(max(0.0, self._until - time.monotonic()))
            except TimeoutError:
                self.opened[1].call("end_idle")
                found = begun.result()
        return found or self.opened[0].verify(point)

    def _until_over(self) -> None:
        with self._giving_up():
            while not self._over.is_set():
                self._news.wait()
                self._news.clear()
                began = time.monotonic()
                front = RunFront(self._run).unverified
                seconds = time.monotonic() - began
                self._front = {(point.candidate, point.program) for point in front}
                for point in front:
                    key = (point.candidate, point.program)
                    if key not in self._begun and not self._over.is_set():
                        self._begun[key] = self._pool.submit(self._try, point)
                self._over.wait(seconds / _LOOKING)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Begin no other program after an error: what is missing is done, and said, at the end."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - of any kind
            self._over.set()
            _LOG.info("no program is verified any more beside the search: %s", last_line(error))

    def _try(self, point: FrontPoint) -> VerificationRecord | None:
        """Verify a program if there is room, it is still on the front, and the search goes on."""
        assert self.opened is not None
        key = (point.candidate, point.program)
        with self._giving_up():
            if self._over.is_set() or key not in self._front or not self._fits(point):
                self._begun.pop(key, None)
                return None
            found = self.opened[0].verify(point, idle=True)
            if found.verified:
                _LOG.info("%s %s is verified", point.model, point.candidate)
                return found
        return None

    def _fits(self, point: FrontPoint) -> bool:
        loads = self._run.ledger.records(WorkerRecord, SIZE_COLUMNS)
        weights = weights_of(self._run.sweep, [one for one in loads if one.model == point.model])
        return free_memory() > _COPIES * weights + _BESIDES
