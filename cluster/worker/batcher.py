"""A batcher: it answers calls from several threads together, one batch at a time.

The first call while no batch is running leads: it waits until its batch is complete and computes
all of its answers. Calls that arrive meanwhile wait for their turn.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")
LOOK_EVERY_S = 0.02
# An announced call that has not arrived by then died with its process, and may be repeated.
_PATIENCE_S = 60.0


class _Call(Generic[Ask, Answer]):
    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.over = False


class Batcher(Generic[Ask, Answer]):
    """Batcher of concurrent calls.

    Args:
        work: computes the answers of a batch, in its order.
        size: most calls of a batch.
        is_complete: takes the number of waiting calls; tells whether no more are expected.
        look_every_s: seconds between two calls of `is_complete`.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Ask]], Sequence[Answer]],
        size: int,
        is_complete: Callable[[int], bool],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._work, self._size, self._is_complete = work, size, is_complete
        self._look_every_s = look_every_s
        self._waiting: list[_Call[Ask, Answer]] = []
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def run(self, ask: Ask) -> Answer:
        """Return the answer to a call; an error of a batch is raised in all of its callers."""
        call: _Call[Ask, Answer] = _Call(ask)
        with self._lock:
            self._waiting.append(call)
        with self._turn:
            while not call.over:
                self._lead()
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value]

    def _lead(self) -> None:
        began = time.monotonic()
        while self._size > len(self._waiting) and not self._is_complete(len(self._waiting)):
            if time.monotonic() - began > _PATIENCE_S:
                break
            time.sleep(self._look_every_s)
        with self._lock:
            pack, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        try:
            for call, answer in zip(pack, self._work([c.ask for c in pack]), strict=True):
                call.answer = answer
        except BaseException as error:  # noqa: BLE001 - it is raised in every caller
            for call in pack:
                call.error = error
        for call in pack:
            call.over = True
