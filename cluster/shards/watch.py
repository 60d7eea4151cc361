"""Watch the followers' part of a call, and find the cause when several ranks fail."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import ray

# Interval at which a thread of rank 0 checks for failed followers.
_LOOK_S = 0.2
# How long rank 0 waits after its own failure for a follower's, and the other way round: one may
# have caused the other, or both may be the same error of the method that they ran.
BLAME_S = 5.0


class Watch:
    """Monitor of the followers' part of a call while rank 0 runs its own part.

    Rank 0 may be waiting in a collective operation for a follower that failed. Killing all
    followers ends that wait at once.
    """

    def __init__(self, refs: Sequence[Any], followers: Sequence[Any]) -> None:
        self._ranks = {ref: rank for rank, ref in enumerate(refs, 1)}
        self._followers = followers
        self._waiting = list(refs)
        self._failures: list[tuple[int, Exception]] = []
        self._kill_at: float | None = None
        self._killed = False
        self._local_done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def finish(self, patience_s: float) -> list[tuple[int, Exception]]:
        """Wait up to `patience_s` for the followers; return the failed ranks and their errors.

        To be called when rank 0 is done with its own part.
        """
        self._local_done.set()
        self._thread.join()
        deadline = time.monotonic() + patience_s
        while self._waiting and not self._killed and time.monotonic() < deadline:
            self._collect()
        if self._killed or not self._waiting:
            return self._failures
        late = TimeoutError(f"it did not finish within {patience_s:g} s after rank 0")
        return [*self._failures, *((self._ranks[ref], late) for ref in self._waiting)]

    def _look(self) -> None:
        while not self._local_done.is_set() and not self._killed:
            if self._waiting:
                self._collect()
            elif self._kill_at is None or self._local_done.wait(_LOOK_S):
                return
            else:
                self._kill_when_due()

    def _collect(self) -> None:
        done, self._waiting = ray.wait(
            self._waiting, num_returns=len(self._waiting), timeout=_LOOK_S, fetch_local=False
        )
        for ref in done:
            try:
                ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                self._failures.append((self._ranks[ref], error.cause))
            except ray.exceptions.RayError as error:
                self._failures.append((self._ranks[ref], error))
        if self._failures and self._kill_at is None:
            # Kill at once after a death only: an error of the method itself is raised on all ranks
            # at about the same time, so give the other ranks time to raise it too.
            died = any(depth(cause) == 0 for _, cause in self._failures)
            self._kill_at = time.monotonic() + (0.0 if died else BLAME_S)
        self._kill_when_due()

    def _kill_when_due(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            kill(self._followers)
            self._killed = True


def depth(cause: Exception) -> int:
    """Return the distance of a failure from its likely cause: 0 is the death of a rank."""
    if isinstance(cause, ray.exceptions.RayError):
        return 0
    if isinstance(cause, TimeoutError):
        return 2
    # A collective operation failed, usually because another rank had failed before.
    text = str(cause).lower()
    waited = isinstance(cause, RuntimeError) and ("gloo" in text or "nccl" in text)
    return 3 if waited else 1


def is_everybodys(
    error: Exception, failures: Sequence[tuple[int, Exception]], num_followers: int
) -> bool:
    """Return whether every follower failed with the same error as rank 0."""
    return len(failures) == num_followers and all(
        type(cause) is type(error) and str(cause) == str(error) and depth(cause) == 1
        for _, cause in failures
    )


def kill(followers: Sequence[Any]) -> None:
    """Kill the followers' processes, on any node."""
    for follower in followers:
        ray.kill(follower, no_restart=True)
