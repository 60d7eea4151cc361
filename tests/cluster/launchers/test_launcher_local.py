"""Runs by commands of this machine, or of a cluster that a command reaches from outside."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kilobit import launch
from kilobit.cluster.launchers.launcher import Local, Sweeps

Write = Callable[..., Path]


def test_each_run_is_executed_and_the_worst_status_is_that_of_all(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = write_sweep(workers={"wait_s": 1}).rename(tmp_path / "a.yaml")
    second = write_sweep(name="other")
    launcher = Local(launch.main, ("--dry-run",))
    plan = launcher.plan(Sweeps.of([first.name, second.name, "seed=2"], Path("runs")))
    first.write_text("name: [")
    launched = launcher.submit(plan)
    assert (launched.handles, launched.status) == (("2", "0"), 2)
    assert not Path("runs").exists()
    lines = launcher.render(plan).splitlines()
    assert (
        lines[1]
        == shlex.join(
            ["kilobit", "run", str(second), "seed=2", "--out", str(tmp_path / "runs/other")]
        )
        + " --dry-run"
    )


def test_a_cluster_from_outside_gets_the_command_with_absolute_paths(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def drive(address: str, words: Sequence[str], show: object) -> int:
        asked.append((address, list(words)))
        return 1

    monkeypatch.setattr("kilobit.cluster.fleet.remote_driver.drive", drive)
    monkeypatch.chdir(tmp_path)
    file = write_sweep()
    address = "http://head:8265"
    words = ["run", file.name, "seed=2", "--address", address, "--continue", "--take-over"]
    assert launch.main(words) == 1
    where = ["run", str(file), "seed=2", "--out", str(tmp_path / "runs" / "small")]
    assert asked == [(address, [*where, "--continue", "--take-over", "--log-level", "info"])]
