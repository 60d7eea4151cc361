"""Of all who want to write to a run one holds it; the others hear who, or take over."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kilobit.cluster.runs import lock
from kilobit.cluster.runs.lock import LockedError, is_locked, lock_holder, lock_run, silence_s
from kilobit.evaluators.ledger.fencing import claim_file, latest_attempt
from kilobit.evaluators.ledger.stored_path import StoredPath
from tests.conftest import REPOSITORY
from tests.support.object_store import Proxy

HOLD = """
import sys
from pathlib import Path
from kilobit.cluster.runs.lock import LockedError, lock_run

sys.stdin.readline()
try:
    with lock_run(Path(sys.argv[1])) as attempt:
        print("holds", attempt, flush=True)
        sys.stdin.readline()
except LockedError as error:
    print("refused", error, flush=True)
"""


class Process:
    """A process that waits for a word, tries to hold a run, and lets go at the next word."""

    def __init__(self, ledger: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(ledger)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            bufsize=1,
        )

    def say(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "run" / "ledger"


@pytest.fixture
def processes(ledger: Path) -> Iterator[list[Process]]:
    found = [Process(ledger) for _ in range(2)]
    yield found
    for process in found:
        process.end()


def test_of_two_processes_one_holds_the_run_and_the_other_hears_who(
    ledger: Path, processes: list[Process]
) -> None:
    for process in processes:
        process.say()
    heard = [process.hear() for process in processes]
    assert sorted(line.split()[0] for line in heard) == ["holds", "refused"]
    winner = processes[[line.startswith("holds") for line in heard].index(True)]
    refusal = next(line for line in heard if line.startswith("refused"))
    assert f"process {winner.process.pid} (-c {ledger})" in refusal
    assert "last heartbeat 0 s ago" in refusal
    assert "It is running: wait for it, or end it there by Ctrl-C" in refusal
    holder = lock_holder(ledger)
    assert holder is not None
    assert (holder.attempt, holder.pid) == (1, winner.process.pid)
    # Whoever lets go is followed at once, under the next number.
    winner.say()
    winner.process.wait()
    assert lock_holder(ledger) is None
    with lock_run(ledger) as attempt:
        assert attempt == 2


def test_a_killed_holder_is_followed_at_once(ledger: Path, processes: list[Process]) -> None:
    first, second = processes
    first.say()
    assert first.hear() == "holds 1\n"
    os.kill(first.process.pid, signal.SIGKILL)
    # Not waited for: to others it is a zombie, and a zombie writes nothing.
    while lock_holder(ledger) is not None:
        time.sleep(0.01)
    second.say()
    assert second.hear() == "holds 2\n"


def test_another_process_that_got_the_number_of_a_dead_one_is_no_holder(ledger: Path) -> None:
    with lock_run(ledger):
        assert is_locked(ledger, 1)
        claim = json.loads(claim_file(ledger, 1).read_bytes())
        claim_file(ledger, 1).write_text(json.dumps({**claim, "began": claim["began"] - 60}))
        assert not is_locked(ledger, 1)


def test_a_held_run_is_taken_over_by_force_and_only_once(ledger: Path) -> None:
    with ExitStack() as stack:
        assert stack.enter_context(lock_run(ledger)) == 1
        with pytest.raises(LockedError, match=r"is locked by attempt 1 on .*, process \d+ "):
            stack.enter_context(lock_run(ledger))
        assert stack.enter_context(lock_run(ledger, take_over=True)) == 2
    assert latest_attempt(ledger) == 2


def test_of_two_that_take_over_at_the_same_instant_one_wins(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        stack.enter_context(lock_run(ledger))
        # Both have looked before either has claimed.
        monkeypatch.setattr(lock, "latest_attempt", lambda _: 1)
        assert stack.enter_context(lock_run(ledger, take_over=True)) == 2
        with pytest.raises(LockedError, match="claimed by another process just now: attempt 2"):
            stack.enter_context(lock_run(ledger, take_over=True))


def elsewhere(ledger: Path, age_s: float) -> None:
    """Make attempt 1 one of a process on another machine, silent for `age_s`."""
    claim = json.loads(claim_file(ledger, 1).read_bytes())
    claim_file(ledger, 1).write_text(json.dumps({**claim, "machine": "other", "pid": 1}))
    beat(ledger, age_s)


def beat(ledger: Path, age_s: float) -> None:
    stamp = time.time_ns() - int(age_s * 1e9)
    for path in (claim_file(ledger, 1), claim_file(ledger, 1).with_suffix(".alive")):
        path.touch()
        os.utime(path, ns=(stamp, stamp))


def test_a_holder_elsewhere_lives_by_its_signs_and_is_watched_before_it_is_dead(
    ledger: Path,
) -> None:
    ledger.mkdir(parents=True)
    lock._claim(ledger, 1)
    elsewhere(ledger, 50)
    assert is_locked(ledger, 1, sleep=lambda _: pytest.fail("there is nothing to wait for"))
    watched: list[float] = []
    elsewhere(ledger, 70)
    assert not is_locked(ledger, 1, sleep=watched.append)
    assert len(watched) == 1
    # Both machines were asleep: it is silent for long, and then it is there.
    assert is_locked(ledger, 1, sleep=lambda _: beat(ledger, 69))


def test_clocks_that_differ_change_nothing(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.mkdir(parents=True)
    lock._claim(ledger, 1)
    elsewhere(ledger, 30)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert 29 < silence_s(ledger, 1) < 60
    assert is_locked(ledger, 1, sleep=lambda _: None)


def test_a_holder_gives_signs_of_life(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    with lock_run(ledger):
        sign = claim_file(ledger, 1).with_suffix(".alive")
        while not sign.exists():
            time.sleep(0.001)
        first = sign.stat().st_mtime_ns
        while sign.stat().st_mtime_ns == first:
            time.sleep(0.001)
    assert claim_file(ledger, 1).with_suffix(".ended").exists()


def test_a_full_disk_leaves_no_half_claim(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), lock_run(ledger):
        pass
    assert list((ledger / "attempts").iterdir()) == []


def test_where_there_are_no_hard_links_a_claim_is_exclusive_too(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with lock_run(ledger):
        assert json.loads(claim_file(ledger, 1).read_bytes())["pid"] == os.getpid()
        with pytest.raises(LockedError, match="claimed by another process just now"):
            lock._claim(ledger, 1)


def test_a_claim_that_can_not_be_read_holds_until_it_is_old(ledger: Path) -> None:
    claim_file(ledger, 1).parent.mkdir(parents=True)
    claim_file(ledger, 1).write_bytes(b"")
    with pytest.raises(LockedError, match="attempt 1, whose claim can't be read"), lock_run(ledger):
        pass
    elsewhere_stamp = time.time_ns() - 100_000_000_000
    os.utime(claim_file(ledger, 1), ns=(elsewhere_stamp, elsewhere_stamp))
    assert not is_locked(ledger, 1, sleep=lambda _: None)


Store = Proxy


def test_of_many_who_claim_a_run_on_a_store_one_holds_it(store: Store, folder: StoredPath) -> None:
    ledger, start, held = folder / "ledger", threading.Barrier(4), list[int]()
    store.lose_every = 5

    def claim() -> None:
        start.wait()
        try:
            with lock_run(ledger) as attempt:
                held.append(attempt)
                start.wait()
        except LockedError:
            start.wait()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # All four claims are equal, for they are of one process; those of several never are.
    assert set(held) == {1}
    assert store.done["lost"] > 0
    assert lock_holder(ledger) is None


def test_a_holder_elsewhere_lives_by_the_clock_of_the_store(
    store: Store, folder: StoredPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = folder / "ledger"
    with lock_run(ledger):
        claim = json.loads(claim_file(ledger, 1).read_bytes())
        claim_file(ledger, 1).write_bytes(json.dumps(claim | {"machine": "other"}).encode())
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        assert is_locked(ledger, 1)
        assert "process" in str(lock_holder(ledger))
        with pytest.raises(LockedError, match="is locked by attempt 1"), lock_run(ledger):
            pass
    assert not is_locked(ledger, 1)
