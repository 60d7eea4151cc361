"""A worker that is stopped by a signal, which does not end it, in the middle of a search.

pytest -m slow tests/whole_runs/test_stopped_worker.py
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import psutil
import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from tests.support.driver.ledgers import LORA, content
from tests.support.driver.processes import finish, start, wait_for
from tests.support.rows import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
Write = Callable[..., Path]
FAMILIES = {"prompt": {"candidates": 8}, "lora": {**LORA, "candidates": 2}}


def searching(sweep: Path, out: Path) -> "Popen[str]":
    """Begin a search and return once its only worker has finished a rung."""
    search = start("run", str(sweep), "--out", str(out))
    wait_for(lambda: (out / "run.json").exists() and bool(rows(out, "rungs")), search)
    return search


def rows(out: Path, table: str) -> list[dict[str, object]]:
    return rows_of(Ledger(out / "ledger"), table)


def stop(out: Path, process: "Popen[str]") -> int:
    """Stop the worker while it runs a rung, and return its process id."""
    [in_hand] = (out / "in_hand").iterdir()
    wait_for(lambda: '"running": ["' in in_hand.read_text(), process)
    [worker] = rows(out, "workers")
    pid = int(str(worker["pid"]))
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_stopped_worker_is_started_again_and_the_results_are_the_same(
    write_sweep: Write, tmp_path: Path
) -> None:
    sweep = write_sweep(families=FAMILIES, workers={"silent_s": 5})
    finish(start("run", str(sweep), "--out", str(tmp_path / "quiet")), 0)
    out = tmp_path / "out"
    search = searching(sweep, out)
    pid = stop(out, search)
    shown = finish(search, 0)
    assert "worker llama-0 stood still for" in " ".join(shown.split())
    assert "worker llama-0 stood still for" in (out / "run.log").read_text()
    assert len(rows(out, "workers")) == 2
    assert not Path(f"/proc/{pid}").exists()
    assert content(out) == content(tmp_path / "quiet")


def test_a_stopped_rank_is_noticed_like_its_worker(write_sweep: Write, tmp_path: Path) -> None:
    ranks = {"world_size": 2, "layout": "tensor", "cpus_per_rank": 0.5}
    sweep = write_sweep(families=FAMILIES, workers={"silent_s": 5, "shards": ranks})
    finish(start("run", str(sweep), "--out", str(tmp_path / "quiet")), 0)
    out = tmp_path / "out"
    search = searching(sweep, out)
    [follower] = [
        one
        for one in psutil.Process(search.pid).children(recursive=True)
        if "_Follower" in "".join(one.cmdline())
    ]
    follower.suspend()
    shown = finish(search, 0)
    assert "worker llama-0 stood still for" in " ".join(shown.split())
    assert len(rows(out, "workers")) == 2
    assert not follower.is_running()
    assert content(out) == content(tmp_path / "quiet")


def test_the_time_budget_ends_a_search_whose_only_worker_is_stopped(
    write_sweep: Write, tmp_path: Path
) -> None:
    many = {"prompt": {"candidates": 500}}
    sweep = write_sweep(families=many, workers={"silent_s": 5}, budget={"seconds": 8})
    out = tmp_path / "out"
    search = searching(sweep, out)
    stop(out, search)
    finish(search, 0)
    assert len(rows(out, "workers")) <= 2


def test_ctrl_c_ends_a_search_whose_only_worker_is_stopped(
    write_sweep: Write, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    search = searching(write_sweep(families=FAMILIES), out)
    pid = stop(out, search)
    time.sleep(4)
    search.send_signal(signal.SIGINT)
    shown = finish(search, 130)
    assert "kilobit resume" in shown
    assert not Path(f"/proc/{pid}").exists()
