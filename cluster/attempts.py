"""Who holds a run: attempts are claimed by exclusive creation, and a holder gives signs of life.

    LEDGER/attempts/0002.json    who claimed attempt 2: host, process, command, since when
    LEDGER/attempts/0002.alive   its time stamp is the holder's last sign of life
    LEDGER/attempts/0002.ended   the holder has let go

Everything that writes to a run holds it. This keeps people from losing work, it is not what keeps
the ledger right: should two processes ever both believe that they hold a run, the ledger accepts
rows of the newer attempt only (`evaluators.fence`).

A holder on this machine is gone if its process is. Of a holder elsewhere only its signs of life are
known. Their age is taken between time stamps of the same file system, so that clocks which differ
do not matter; and a silent holder is watched for a while before it is taken for dead, because the
machine of both may just have been asleep.
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

from evaluators.fence import claim_file, latest_attempt
from evaluators.storage import Place, check_exclusive, create_whole
from search.sweep import SweepError

BEAT_S = 3.0
SILENT_S = 60.0
_WATCH_S = 10.0
# Times at which a process began are computed from the boot time, which may be adjusted.
_START_TOLERANCE_S = 2.0


class HeldError(SweepError):
    """Another process holds the run."""


@dataclass(frozen=True)
class Holder:
    """Who claimed an attempt, as far as the claim says."""

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
def hold(ledger: Place, *, take_over: bool = False) -> Iterator[int]:
    """Claim the next attempt at the run whose ledger is given, yield its number, let go at the end.

    Args:
        ledger: the folder of the ledger; it is made if it is missing.
        take_over: claim it even if somebody holds the run.

    Raises:
        HeldError: naming the holder, if another process holds the run or was quicker.
        OSError: if the claim can't be written.
    """
    latest = latest_attempt(ledger)
    if latest and not take_over and is_held(ledger, latest):
        raise HeldError(f"{ledger.parent} is held by {_about(ledger, latest)}")
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
        # A run that was discarded is gone with its claims; on a full disk the process's end tells.
        with suppress(OSError):
            if claim_file(ledger, attempt).exists():
                ended.touch()
            else:
                sign.unlink(missing_ok=True)


def holder_of(ledger: Place) -> Holder | None:
    """Return who holds a run now, or None if nobody does or the claim can't be read."""
    latest = latest_attempt(ledger)
    return _read(ledger, latest) if latest and is_held(ledger, latest, watch_s=0) else None


def is_held(
    ledger: Place,
    attempt: int,
    *,
    watch_s: float = _WATCH_S,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Return whether the holder of an attempt has neither let go nor died.

    Args:
        ledger: the folder of the ledger.
        attempt: which attempt.
        watch_s: how long a holder on another machine that seems silent is watched.
        sleep: what waits.
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
    """Return the seconds since the last sign of life, by the clock of the file system alone."""
    probe = ledger / "attempts" / f".now.{uuid.uuid4().hex}.tmp"
    try:
        probe.touch(exist_ok=False)
        now = probe.stat().st_mtime_ns
    except OSError:
        # A reader without the right to write; the clock of this machine is the next best.
        now = time.time_ns()
    finally:
        with suppress(OSError):
            probe.unlink()
    return (now - _last_sign_ns(ledger, attempt)) / 1e9


def this_machine() -> str:
    """Return what tells apart machines, their boots, and containers whose process ids differ."""
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
        raise HeldError(
            f"{ledger.parent} was claimed by another process just now: {_about(ledger, attempt)}"
        ) from error


def _beat(sign: Place, stop: threading.Event) -> None:
    while True:
        # A file system that does not answer for a moment must not end the signs of life.
        with suppress(OSError):
            sign.touch()
        if stop.wait(BEAT_S):
            return


def _beside(ledger: Place, attempt: int, what: str) -> Place:
    return claim_file(ledger, attempt).with_suffix(f".{what}")


def _read(ledger: Place, attempt: int) -> Holder | None:
    try:
        claim: dict[str, Any] = json.loads(claim_file(ledger, attempt).read_bytes())
        return Holder(attempt=attempt, **claim)
    except (OSError, ValueError, TypeError):
        return None


def _about(ledger: Place, attempt: int) -> str:
    holder = _read(ledger, attempt) or f"attempt {attempt}, whose claim can't be read"
    return (
        f"{holder}, last sign of life {max(0.0, silence_s(ledger, attempt)):.0f} s ago. Wait for "
        f"it, end it, or take the run from it: `kilobit resume {ledger.parent} --take-over`"
    )


def _last_sign_ns(ledger: Place, attempt: int) -> int:
    signs = [0]
    for path in (_beside(ledger, attempt, "alive"), claim_file(ledger, attempt)):
        with suppress(OSError):
            signs.append(path.stat().st_mtime_ns)
    return max(signs)


def _lives(holder: Holder) -> bool:
    try:
        process = psutil.Process(holder.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - holder.began) < _START_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
