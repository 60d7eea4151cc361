"""Calls that come from several threads are answered together, a pack at a time.

The first caller that finds nobody at work leads: it waits until its pack is complete and answers
all of it. Callers who come meanwhile wait for their turn.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")
LOOK_EVERY_S = 0.02
# A caller that was announced and does not come has died with its process, and may come again.
_PATIENCE_S = 60.0


class _Call(Generic[Ask, Answer]):
    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.over = False


class Gatherer(Generic[Ask, Answer]):
    """Gathers calls into packs.

    Args:
        work: answers a pack, in its order.
        size: most calls of a pack.
        is_complete: says whether so many waiting calls are all that is to be expected.
        look_every_s: seconds after which it is asked again.
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
        """Return the answer; what goes wrong with a pack is raised to all of its callers."""
        call: _Call[Ask, Answer] = _Call(ask)
        with self._lock:
            self._waiting.append(call)
        with self._turn:
            while not call.over:
                self._lead()
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold off packs meanwhile."""
        with self._turn:
            yield

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
        except BaseException as error:  # noqa: BLE001 - every caller has to hear of it
            for call in pack:
                call.error = error
        for call in pack:
            call.over = True
