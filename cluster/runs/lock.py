"""The lock of a run: attempts are claimed by exclusive creation and kept alive by heartbeats.

    LEDGER/attempts/0002.json    the claim of attempt 2: host, process, command, since when
    LEDGER/attempts/0002.alive   its time stamp is the last heartbeat of the attempt
    LEDGER/attempts/0002.ended   the attempt has released the lock

Every command that writes to a run locks it. The lock keeps people from losing work; it does not
protect the ledger: if two processes ever both believe that they hold the lock, the ledger accepts
rows of the newer attempt only (`kilobit.evaluators.ledger.fencing`).

A holder on this machine is dead if its process is. Of a holder elsewhere only heartbeats are known.
Their age is the difference of two time stamps of the same file system, so that differing clocks do
not matter. A silent holder is watched for a while before it counts as dead, because the machine may
just have woken from sleep.
"""

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from kilobit.evaluators.ledger.fencing import claim_file, latest_attempt
from kilobit.evaluators.ledger.storage import Place, check_exclusive, create_whole, read_json
from kilobit.search.settings import InputError, to_copy

BEAT_S = 3.0
SILENT_S = 60.0
_WATCH_S = 10.0
# The start time of a process is computed from the boot time, which may be adjusted.
_START_TOLERANCE_S = 2.0


class LockedError(InputError):
    """The run is locked by another process."""


@dataclass(frozen=True)
class LockHolder:
    """The process that claimed an attempt, as its claim file describes it."""

    attempt: int
    host: str
    machine: str
    pid: int
    began: float
    command: str
    since: str

    def __str__(self) -> str:
        return (
            f"attempt {self.attempt} on {self.host}, process {self.pid} ({self.command}), since "
            f"{self.since}"
        )


@contextmanager
def lock_run(ledger: Place, *, take_over: bool = False) -> Iterator[int]:
    """Lock a run by claiming its next attempt, yield the attempt's number, unlock at the end.

    Args:
        ledger: the folder of the ledger; it is made if it is missing.
        take_over: claim the attempt even if the run is locked.

    Raises:
        LockedError: naming the holder, if another process holds the lock or claimed it first.
        OSError: if the claim can't be written.
    """
    latest = latest_attempt(ledger)
    if latest and not take_over and is_locked(ledger, latest):
        raise LockedError(f"{ledger.parent} is locked by {_about(ledger, latest)}")
    attempt = latest + 1
    check_exclusive(ledger / "attempts")
    _claim(ledger, attempt)
    sign, ended = _beside(ledger, attempt, "alive"), _beside(ledger, attempt, "ended")
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(sign, stop), name="sign of life", daemon=True)
    beating.start()
    try:
        yield attempt
    finally:
        stop.set()
        beating.join()
        # A discarded run has lost its claims. On a full disk `ended` can't be written; the end of
        # the process then shows that the lock is free.
        with suppress(OSError):
            if claim_file(ledger, attempt).exists():
                ended.touch()
            else:
                sign.unlink(missing_ok=True)


def lock_holder(ledger: Place) -> LockHolder | None:
    """Return the holder of a run's lock, or None if it is not locked or its claim is unreadable."""
    latest = latest_attempt(ledger)
    return _read(ledger, latest) if latest and is_locked(ledger, latest, watch_s=0) else None


def is_locked(
    ledger: Place,
    attempt: int,
    *,
    watch_s: float = _WATCH_S,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Return whether an attempt holds its lock: it has neither released it nor died.

    Args:
        ledger: the folder of the ledger.
        attempt: number of the attempt.
        watch_s: seconds for which a silent holder on another machine is watched.
        sleep: waits for so many seconds.
    """
    if _beside(ledger, attempt, "ended").exists():
        return False
    holder = _read(ledger, attempt)
    if holder is not None and holder.machine == this_machine():
        return _lives(holder)
    if silence_s(ledger, attempt) <= SILENT_S:
        return True
    last = _last_sign_ns(ledger, attempt)
    sleep(watch_s)
    return _last_sign_ns(ledger, attempt) != last


def silence_s(ledger: Place, attempt: int) -> float:
    """Return the seconds since the last heartbeat, by the clock of the file system alone."""
    probe = ledger / "attempts" / f".now.{uuid.uuid4().hex}.tmp"
    try:
        probe.touch(exist_ok=False)
        now = probe.stat().st_mtime_ns
    except OSError:
        # Without permission to write, use the clock of this machine as an approximation.
        now = time.time_ns()
    finally:
        with suppress(OSError):
            probe.unlink()
    return (now - _last_sign_ns(ledger, attempt)) / 1e9


def this_machine() -> str:
    """Return an identifier of the machine, its boot, and its process id namespace (container)."""
    found = [platform.node()]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
    with suppress(OSError):
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(found)


def _claim(ledger: Place, attempt: int) -> None:
    path = claim_file(ledger, attempt)
    claim = {
        "host": platform.node(),
        "machine": this_machine(),
        "pid": os.getpid(),
        "began": psutil.Process().create_time(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        create_whole(path, json.dumps(claim).encode())
    except FileExistsError as error:
        raise LockedError(
            f"{ledger.parent} was claimed by another process just now: {_about(ledger, attempt)}"
        ) from error


def _beat(sign: Place, stop: threading.Event) -> None:
    while True:
        # A short failure of the file system must not end the heartbeats.
        with suppress(OSError):
            sign.touch()
        if stop.wait(BEAT_S):
            return


def _beside(ledger: Place, attempt: int, what: str) -> Place:
    return claim_file(ledger, attempt).with_suffix(f".{what}")


def _read(ledger: Place, attempt: int) -> LockHolder | None:
    try:
        claim: dict[str, Any] = read_json(claim_file(ledger, attempt))
        return LockHolder(attempt=attempt, **claim)
    except (OSError, ValueError, TypeError):
        return None


def _about(ledger: Place, attempt: int) -> str:
    holder = _read(ledger, attempt) or f"attempt {attempt}, whose claim can't be read"
    silence = max(0.0, silence_s(ledger, attempt))
    # Who only wants to look at a run should not be told to seize it while it is searching.
    advice = (
        "It is running: wait for it, or end it there by Ctrl-C"
        if silence < _WATCH_S
        else f"Wait for it, end it, or take the run from it: "
        f"`{to_copy('resume', ledger.parent, '--take-over')}`"
    )
    return f"{holder}, last heartbeat {silence:.0f} s ago. {advice}"


def _last_sign_ns(ledger: Place, attempt: int) -> int:
    signs = [0]
    for path in (_beside(ledger, attempt, "alive"), claim_file(ledger, attempt)):
        with suppress(OSError):
            signs.append(path.stat().st_mtime_ns)
    return max(signs)


def _lives(holder: LockHolder) -> bool:
    try:
        process = psutil.Process(holder.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - holder.began) < _START_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
