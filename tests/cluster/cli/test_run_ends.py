"""What fails after a search loses nothing, and the command that does only that is named."""

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import kilobit.cluster.driver.attempt
from kilobit.cluster.cli.run import _execute
from kilobit.cluster.driver.attempt import Outcome
from kilobit.cluster.messages import PoolError
from kilobit.cluster.runs.folder import RunFolder, reopen_run
from kilobit.search.settings import InputError
from tests.support.cli.sealed import Make, Say
from tests.support.rows import rows_of


@pytest.fixture(autouse=True)
def searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be left to search."""
    monkeypatch.setattr(kilobit.cluster.driver.attempt, "execute", lambda *_: Outcome())


def end(run: RunFolder) -> int:
    plan: Any = SimpleNamespace(num_candidates=4)
    with reopen_run(run.path) as held:
        return _execute(held, plan, Console(soft_wrap=True, markup=False), None, 0.0, "info")


def remove(run: RunFolder) -> None:
    (run.path / "run.json").unlink()


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> pytest.MonkeyPatch:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(f"kilobit.cluster.{name}", fail)
    return monkeypatch


@pytest.mark.parametrize(
    "error",
    [
        InputError("base model raw: there is no folder"),
        PoolError("not enough free resources"),
        RuntimeError("a bug"),
    ],
)
def test_a_verification_that_can_not_be_done(
    make: Make,
    say: Say,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    run = make(certify=True, families={"prompt": {"candidates": 2}})
    with monkeypatch.context() as patched:
        failing(patched, "cli.proofs.ProgramRunner.run", error)
        assert end(run) == 1
    shown = capsys.readouterr().out
    assert f"the search is over, but what follows it failed: {error}" in shown
    assert f"do what is missing with:\n  kilobit resume {run.path}" in shown
    rest = (
        f"not verified: 4 programs of the front; run their files with:\n  kilobit verify {run.path}"
    )
    assert rest in shown
    assert "score ≥ 0.7 on the search split: at most 10160 program bits" in shown
    assert rows_of(run.ledger, "verifications") == rows_of(run.ledger, "openings") == []
    assert rest in say("status", run.path)
    say("verify", run.path)
    shown = say("status", run.path)
    assert "not verified" not in shown
    assert f"not certified; open the sealed split with:\n  kilobit certify {run.path}" in shown
    say("certify", run.path)
    assert "not certified" not in say("status", run.path)


def test_a_certification_or_a_picture_that_can_not_be_made(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(certify=True, families={"prompt": {"candidates": 2}})
    with monkeypatch.context() as patched:
        failing(patched, "cli.certify._run_programs", PoolError("no room"))
        assert end(run) == 1
    shown = capsys.readouterr().out
    assert "what follows it failed: no room" in shown
    assert f"  kilobit certify {run.path}" in shown
    assert "not verified" not in shown
    # The opening is recorded, and the next attempt goes on with it.
    (opening,) = rows_of(run.ledger, "openings")
    with monkeypatch.context() as patched:
        failing(patched, "runs.fronts.draw", RuntimeError("no fonts"))
        assert end(run) == 1
    shown = capsys.readouterr().out
    assert "what follows it failed: no picture: no fonts" in shown
    assert "certified: at most 10160" in shown
    assert end(run) == 0
    assert rows_of(run.ledger, "openings") == [opening]
    assert "what follows it failed" not in capsys.readouterr().out


def test_ray_that_does_not_start_is_one_message_and_the_command_to_go_on(
    make: Make,
    say: Say,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make(families={"prompt": {"candidates": 2}})
    error = PoolError("Ray did not start on this machine, which may be too busy: x")
    failing(monkeypatch, "driver.attempt.execute", error)
    assert end(run) == 1
    shown = capsys.readouterr()
    assert shown.err == f"kilobit: {error}\n"
    assert shown.out.endswith(
        f"stopped; every finished rung is kept. Go on with:\n  kilobit resume {run.path}\n"
    )
    # Without results there is nothing to resume.
    monkeypatch.setattr("kilobit.cluster.runs.folder.discard_run", remove)
    with pytest.raises(PoolError, match="did not start"):
        end(run)
    assert capsys.readouterr().err == ""
