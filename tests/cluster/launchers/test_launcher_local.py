"""Runs by commands of this machine, or of a cluster that a command reaches from outside."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kilobit import launch
from kilobit.cluster.launchers.launcher import Local, Sweeps
from tests.support.runs import write_run

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


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
@pytest.mark.parametrize(
    "words",
    [
        ["resume", "{run}", "budget.candidates=3", "--take-over"],
        ["verify", "{run}", "--fresh", "--timeout", "60"],
        ["certify", "{run}", "{other}", "--again"],
        ["scorecard", "{run}", "--battery", "{battery}", "--json"],
    ],
)
def test_what_follows_a_search_is_driven_from_outside_as_the_search_is(
    address: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def drive(address: str, words: Sequence[str], show: object) -> int:
        asked.append((address, list(words)))
        return 1

    monkeypatch.setattr("kilobit.cluster.fleet.remote_driver.drive", drive)
    monkeypatch.chdir(tmp_path)
    names = {"run": "a", "other": "b", "battery": "battery.yaml"}
    for run in ("a", "b"):
        write_run(tmp_path / run, {"x": [1.0]})
    given = [word.format_map(names) for word in words]
    assert launch.main([*given, "--address", address]) == 1
    there = {name: str(tmp_path / path) for name, path in names.items()}
    (found,) = asked
    assert found[0] == address
    # In any folder these words make the same request, but for the address.
    expected = [word.format_map(there) for word in words]
    assert sorted(found[1]) == sorted(expected)
    assert launch.parse(found[1]) == launch.parse(expected)
