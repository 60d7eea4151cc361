"""A start that fails takes away what it made, and nothing else."""

import grp
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import launch
from cluster.attempts import HeldError, hold
from cluster.pool import PoolError
from cluster.run_folder import continue_run, create_run, discard_run, holds_run, reopen_run
from evaluators.fence import SupersededError
from search.sweep import SweepError, load_sweep

Write = Callable[..., Path]


@pytest.mark.parametrize(
    "name",
    [
        "ledger/accounts-2025.csv",
        "ledger/attempts/notes.txt",
        "ledger/rungs/a-r0.a1.parquet",
        "draft.tmp",
        "ledger",
    ],
)
def test_a_folder_with_files_of_others_is_refused_and_left_as_it_is(
    write_sweep: Write, tmp_path: Path, name: str
) -> None:
    path, out = write_sweep(), tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    before = sorted(out.rglob("*"))
    with (
        pytest.raises(SweepError, match="is neither empty nor a run: it holds"),
        create_run(load_sweep(path), path, out),
    ):
        pass
    assert sorted(out.rglob("*")) == before
    assert (out / name).read_text() == "mine"


def test_a_discarded_run_leaves_the_folder_as_it_was(write_sweep: Write, tmp_path: Path) -> None:
    path = write_sweep()
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with create_run(load_sweep(path), path, tmp_path / name) as run:
            (run.path / "incumbents").mkdir()
            (run.path / "incumbents" / "x.json").write_text("[]")
            discard_run(run)
    assert list((tmp_path / "there").iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_what_a_newer_attempt_has_taken_over_is_not_discarded(
    write_sweep: Write, tmp_path: Path
) -> None:
    path = write_sweep()
    with ExitStack() as stack:
        run = stack.enter_context(create_run(load_sweep(path), path, tmp_path / "run"))
        other = stack.enter_context(reopen_run(run.path, take_over=True))
        with pytest.raises(SupersededError, match="superseded by attempt 2"):
            discard_run(run)
        other.ledger.write("rungs", "x-r0", [{"candidate": "x"}])
        assert len(other.ledger.rows("rungs")) == 1


def test_a_start_that_is_superseded_says_so_and_leaves_the_run(
    write_sweep: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, out = write_sweep(), tmp_path / "run"

    def superseded(*_: Any) -> None:
        with hold(out / "ledger", take_over=True):
            raise PoolError("worker llama-0 could not load llama: superseded")

    monkeypatch.setattr("cluster.run.execute", superseded)
    assert launch.main(["run", str(path), "--out", str(out)]) == 1
    assert "kilobit: attempt 1 at " in capsys.readouterr().err
    assert (out / "run.json").exists()
    assert (out / "ledger" / "attempts" / "0002.json").exists()


def test_a_run_is_gone_on_with_by_its_sweep_and_the_budget_that_has_now(
    write_sweep: Write, tmp_path: Path
) -> None:
    path, out = write_sweep(), tmp_path / "run"
    sweep = load_sweep(path)
    assert not holds_run(sweep, out)
    with create_run(sweep, path, out):
        pass
    assert holds_run(sweep, out)
    with continue_run(load_sweep(path, ["budget.candidates=2"]), out) as run:
        assert (run.attempt, run.sweep.budget.candidates) == (2, 2)
        with pytest.raises(HeldError, match="is locked by attempt 2"), continue_run(sweep, out):
            pass
        with continue_run(sweep, out, take_over=True) as newer:
            assert (newer.attempt, newer.sweep.budget.candidates) == (3, None)
            with pytest.raises(SupersededError):
                run.ledger.write("rungs", "x", [{"candidate": "x"}])
    other = load_sweep(path, ["seed=3", "workers.threads=2"])
    with (
        pytest.raises(SweepError, match="holds the run of another sweep: workers, seed differs"),
        continue_run(other, out),
    ):
        pass


def test_a_folder_that_others_can_write_to_is_refused(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write_sweep(), tmp_path / "run"
    sweep = load_sweep(path)
    with create_run(sweep, path, out):
        pass
    # What a run finds out is nobody else's business unless it is said so.
    assert out.stat().st_mode & 0o777 == 0o700
    found = [(0o702, "everybody may")]
    if os.geteuid() == 0:
        other = next(group for group in grp.getgrall() if group.gr_name != "root")
        os.chown(out, -1, other.gr_gid)
        found.append((0o770, f"the group {other.gr_name} may"))
    for mode, who in found:
        out.chmod(mode)
        for use in (reopen_run(out), create_run(sweep, path, tmp_path / "open")):
            (tmp_path / "open").mkdir(exist_ok=True)
            (tmp_path / "open").chmod(0o777)
            with pytest.raises(SweepError, match="can be written by others"), use:
                pass
        with pytest.raises(SweepError, match=re.escape(f"({who})")), reopen_run(out):
            pass
    monkeypatch.setenv("KILOBIT_SHARED_RUNS", "1")
    with reopen_run(out), create_run(sweep, path, tmp_path / "open"):
        pass
