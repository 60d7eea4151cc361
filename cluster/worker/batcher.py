"""A batcher: it answers calls from several threads together, one batch at a time.

The first call while no batch is running leads: it waits until its batch is complete and computes
all of its answers. Calls that arrive meanwhile wait for their turn.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")
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
        is_complete: takes the waiting calls; tells whether no more are expected.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Ask]], Sequence[Answer]],
        size: int,
        is_complete: Callable[[Sequence[Ask]], bool],
    ) -> None:
        self._work, self._size, self._is_complete = work, size, is_complete
        self._waiting: list[_Call[Ask, Answer]] = []
        self._changed, self._turn = threading.Condition(), threading.Lock()

    def run(self, ask: Ask) -> Answer:
        """Return the answer to a call; an error of a batch is raised in all of its callers."""
        call: _Call[Ask, Answer] = _Call(ask)
        with self._changed:
            self._waiting.append(call)
            self._changed.notify_all()
        with self._turn:
            while not call.over:
                self._lead()
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value]

    def look(self) -> None:
        """Look again whether the batch is complete, because what is expected has changed."""
        with self._changed:
            self._changed.notify_all()

    def _lead(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_complete([call.ask for call in self._waiting]), _PATIENCE_S
            )
            pack, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        try:
            for call, answer in zip(pack, self._work([c.ask for c in pack]), strict=True):
                call.answer = answer
        except BaseException as error:  # noqa: BLE001 - it is raised in every caller
            for call in pack:
                call.error = error
        for call in pack:
            call.over = True
