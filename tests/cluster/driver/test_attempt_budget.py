"""A time budget counts all attempts, so a job that is restarted ends."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kilobit.cluster.cli.run import _execute
from kilobit.cluster.driver import attempt
from kilobit.cluster.driver.check import check_sweep
from kilobit.cluster.runs.folder import RunFolder, continue_run, create_run, open_run
from kilobit.cluster.sweep.sweep import load_sweep
from tests.support.rows import rows_of, write_rows

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Restarted:
    """A job that searches for 40 s, by the ledger, is killed, and is started again."""

    def __init__(self, path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.out, self.searched = path, out, list[float | None]()
        self.error: str | None = None
        monkeypatch.setattr(attempt, "ray_session", lambda _: nullcontext())
        monkeypatch.setattr(attempt, "_wait_for_workers", lambda *_: None)
        monkeypatch.setattr(attempt, "Pool", lambda *_, **__: self)
        monkeypatch.setattr(attempt, "_search", self.search)

    def search(self, run: RunFolder, *others: Any) -> None:
        *_, left_s, _look = others
        self.searched.append(left_s)
        at = NOW + timedelta(days=run.attempt, seconds=40)
        row = {"candidate": "c", "rung": run.attempt, "num_examples": 4, "error": self.error}
        row |= {"attempt": run.attempt, "seconds": 40.0, "finished_at": at}
        write_rows(run.ledger, "rungs", f"c-r{run.attempt}", [row])

    def stop(self) -> None:
        pass

    def start(self, *overrides: str) -> int:
        sweep = load_sweep(self.path, overrides)
        plan = check_sweep(sweep, self.path.parent)
        began = (
            continue_run(sweep, self.out)
            if self.out.exists()
            else create_run(sweep, self.path, self.out)
        )
        with began as run:
            return _execute(run, plan, Console(soft_wrap=True), None, 0.0, "info")


@pytest.fixture
def job(
    write_sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Restarted:
    endless = {"proposer": {"kind": "evolution"}, "budget": {"seconds": 100}}
    return Restarted(write_sweep(**endless), tmp_path / "run", monkeypatch)


def test_the_time_of_all_attempts_ends_a_job_that_is_restarted(
    job: Restarted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [job.start() for _ in range(6)] == [0] * 6
    assert job.searched == [100, 60, 20]
    run = open_run(job.out)
    # After that nothing is proposed any more either.
    assert len(rows_of(run.ledger, "candidates")) == len(run.sweep.base_models)
    shown = capsys.readouterr().out
    assert f"kilobit resume {job.out} budget.seconds=200" in shown
    # Without a limit this proposer would never end.
    assert "budget.seconds=null" not in shown
    job.start("budget.seconds=200")
    assert job.searched[3:] == [80]
    job.start("budget.seconds=null", "budget.candidates=9")
    assert job.searched[4:] == [None]


def test_an_attempt_that_repeats_one_which_failed_ends_the_chain(job: Restarted) -> None:
    job.error = "Traceback\nValueError: no"
    assert [job.start("budget.seconds=30") for _ in range(3)] == [1, 0, 0]
