"""A run that is killed again and again ends with the ledger of one that was not.

The short form runs with the others; the long one, 25 kills, by

    pytest -m slow tests/cluster/driver/test_attempt_kills.py
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from tests.conftest import REPOSITORY
from tests.support.driver.ledgers import LORA, content
from tests.support.hosts.killer import HOOK
from tests.support.rows import rows_of

pytestmark = [pytest.mark.ray]
Write = Callable[..., Path]
# A file name, the how manieth of that name, and who is killed: all, or the process that writes it.
Kill = tuple[str, int, str]


class Killed:
    """A run in a process group of its own, started and resumed under kills."""

    def __init__(self, folder: Path, sweep: Path) -> None:
        self.out, self.sweep, self.hook = folder / "out", sweep, folder / "hook"
        self.hook.mkdir()
        (self.hook / "sitecustomize.py").write_text(HOOK)
        self.process: subprocess.Popen[str] | None = None
        self.finished: dict[tuple[str, int], Any] = {}
        self.num_attempts = 0

    def go_on(self) -> "subprocess.Popen[str]":
        """Return the running process, having resumed it if it was killed."""
        if self.process is None:
            begun = (self.out / "run.json").exists()
            words = ["resume", str(self.out)] if begun else self._run_words()
            path = f"{self.hook}{os.pathsep}{REPOSITORY}"
            self.process = subprocess.Popen(
                [sys.executable, str(REPOSITORY / "launch.py"), *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,
            )
            self.num_attempts += 1
        return self.process

    def _run_words(self) -> list[str]:
        return ["run", str(self.sweep), "--out", str(self.out)]

    def kill(self, kill: Kill) -> bool:
        """Kill as `kill` says; return False if the run ended before."""
        process = self.go_on()
        pattern, number, whom = kill
        (self.hook / "count").unlink(missing_ok=True)
        scratch = self.hook / "plan.tmp"
        scratch.write_text(f"{pattern} {number} {whom} {process.pid}")
        scratch.replace(self.hook / "plan")
        while (self.hook / "plan").exists() and process.poll() is None:
            time.sleep(0.05)
        done = (self.hook / "plan").exists()
        (self.hook / "plan").unlink(missing_ok=True)
        if not done and whom == "all":
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        self.look()
        return not done

    def kill_after(self, seconds: float) -> bool:
        """Kill all processes of the run at an instant that no write chooses."""
        process = self.go_on()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            self.look()
            return True
        self.look()
        return False

    def look(self) -> None:
        """Check that what was finished is as it was; forget a process that is dead."""
        if self.process is not None and self.process.poll() is not None:
            self.process = None
        rows = rows_of(Ledger(self.out / "ledger"), "rungs")
        found = {(row["candidate"], row["rung"]): row["finished_at"] for row in rows}
        assert len(found) == len(rows), "a rung was counted twice"
        lost = self.finished.items() - found.items()
        assert not lost, f"lost or done twice: {lost}"
        self.finished = found

    def end(self) -> str:
        """Let the run come to its end and return what it printed last."""
        process = self.go_on()
        output, _ = process.communicate()
        assert process.returncode == 0, output
        self.look()
        return output

    def fill_disk(self, pattern: str) -> str:
        """Let no file of that name be written and return what the run printed at its end."""
        process = self.go_on()
        (self.hook / "plan").write_text(f"{pattern} 1 full {process.pid}")
        output, _ = process.communicate()
        (self.hook / "plan").unlink()
        assert process.returncode == 1, output
        self.look()
        return output


def check(folder: Path, sweep: Path, kills: Sequence[Kill | float]) -> int:
    """Run a search under `kills` and compare with one that nobody killed; return the kills done."""
    quiet = folder / "quiet"
    quiet.mkdir()
    undisturbed = Killed(quiet, sweep)
    undisturbed.end()
    run, num_kills = Killed(folder, sweep), 0
    for kill in kills:
        did = run.kill_after(kill) if isinstance(kill, float) else run.kill(kill)
        # Where the run ended before that write came, the beginning of its next attempt is left.
        num_kills += did or run.kill((".", 2, "all"))
    run.end()
    assert content(run.out) == content(undisturbed.out)
    rows = rows_of(Ledger(run.out / "ledger"), "decisions")
    assert sorted(row["order"] for row in rows) == list(range(len(rows)))
    # The last attempt swept what those before it had left, and leaves nothing itself.
    assert not list(run.out.rglob(".*.tmp"))
    return num_kills


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_kills_change_nothing(write_sweep: Write, tmp_path: Path) -> None:
    sweep = write_sweep(
        families={"prompt": {"candidates": 2}, "lora": {**LORA, "candidates": 1}},
        rate_search={"keep": [1.0]},
        workers={"pack": 2},
    )
    kills: list[Kill] = [
        # A worker in the middle of a part; then everything between a decision and its record.
        ("/rungs/[^/]*$", 1, "self"),
        ("/decisions/[^/]*$", 2, "all"),
    ]
    assert check(tmp_path, sweep, kills) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pack", [1, 3])
def test_twenty_five_kills_change_nothing(write_sweep: Write, tmp_path: Path, pack: int) -> None:
    sweep = write_sweep(
        families={
            "prompt": {"candidates": 16, "demonstrations": [0, 1]},
            "lora": {**LORA, "candidates": 4},
        },
        rungs={"examples": 2, "train_steps": 1, "eta": 2, "count": 3},
        workers={"pack": pack},
    )
    rng = random.Random(0)
    kills: list[Kill | float] = [
        *((".", rng.randint(1, 12), "all") for _ in range(7)),
        *(("/decisions/", rng.randint(1, 2), "all") for _ in range(4)),
        *((f"/{table}/", 1, "all") for table in ("rungs", "predictions", "programs")),
        *(("/(rungs|predictions|programs)/", rng.randint(1, 4), "self") for _ in range(4)),
        *(("/(accepted|attempts)/", 1, "all") for _ in range(2)),
        *(rng.uniform(3, 10) for _ in range(3)),
    ]
    rng.shuffle(kills)
    kills = [("/states/", 1, "all"), *kills, (".", 5, "all")]
    assert check(tmp_path, sweep, kills) == 25


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("table", ["predictions", "decisions"])
def test_a_full_disk_ends_in_a_message_and_the_run_can_go_on(
    write_sweep: Write, tmp_path: Path, table: str
) -> None:
    run = Killed(tmp_path, write_sweep(families={"prompt": {"candidates": 2}}))
    shown = run.fill_disk(f"/{table}/[^/]*$")
    assert "No space left on device" in shown
    assert f"kilobit resume {run.out}" in shown
    assert "Traceback" not in shown
    assert "2 of 2 candidates ended" in run.end()
