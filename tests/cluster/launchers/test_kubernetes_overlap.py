"""An attempt that a cluster has begun again does not wait for the one before, nor suffer from it.

KubeRay begins the next attempt of a RayJob as soon as it takes the last one for lost, which may
only be cut off. The last one is simulated by a run that stands still while the next one, by the
command of the manifest, does its work, and then wakes up.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kilobit.cluster.runs.folder import open_run
from kilobit.cluster.runs.fronts import num_ended
from kilobit.evaluators.ledger.ledger import Ledger
from tests.conftest import REPOSITORY
from tests.support.driver.ledgers import content
from tests.support.rows import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]
Write = Callable[..., Path]
SUPERSEDED, DONE = 1, 0


def attempt(sweep: Path, out: Path) -> "subprocess.Popen[str]":
    words = ["run", str(sweep), "--out", str(out), "--continue", "--take-over"]
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "launch.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
    )


def tree(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    own = psutil.Process(process.pid)
    return [own, *own.children(recursive=True)]


def tell(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


@pytest.mark.timeout(600)
def test_of_two_attempts_at_once_the_newer_one_is_the_run(
    write_sweep: Write, tmp_path: Path
) -> None:
    sweep = write_sweep(families={"prompt": {"candidates": 8, "demonstrations": [0, 1]}})
    out = tmp_path / "out"
    first = attempt(sweep, out)
    asleep: list[psutil.Process] = []
    try:
        while not list(out.glob("ledger/rungs/*.parquet")):
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.02)
        asleep = tree(first)
        tell(asleep, signal.SIGSTOP)
        second = attempt(sweep, out)
        shown, _ = second.communicate()
        assert second.returncode == DONE, shown
        rungs = rows_of(Ledger(out / "ledger"), "rungs")
        kept, left = content(out), list((out / "ledger").rglob("*"))
        tell(asleep, signal.SIGCONT)
        shown, _ = first.communicate()
    finally:
        tell(asleep, signal.SIGKILL)
        first.kill()
        first.wait()
    assert first.returncode == SUPERSEDED, shown
    assert "superseded by attempt 2" in shown
    assert content(out) == kept
    assert set(left) <= {*(out / "ledger").rglob("*")}
    # The first one had finished something, which stands, and not all.
    assert {row["attempt"] for row in rungs} == {1, 2}
    assert len({(row["candidate"], row["rung"]) for row in rungs}) == len(rungs)
    assert num_ended(open_run(out)) == 8
