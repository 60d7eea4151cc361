"""A run over three hosts loses nothing when hosts die, come back, or can't be reached.

    pytest -m slow tests/cluster/fleet/test_pool_several_hosts.py

Needs root on Linux, for network namespaces.
"""

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from tests.support.driver.ledgers import DIFFER, TABLES
from tests.support.hosts.hosts import Hosts, address, are_possible
from tests.support.rows import rows_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not are_possible(), reason="making hosts needs root, ip and unshare"),
]
Write = Callable[..., Path]
DEADLINE_S = 400
# Which worker was free, and in which order results came.
ORDER = {"worker", "order", "pack", "after"}


def content(out: Path) -> dict[str, list[str]]:
    """Return all rows of a ledger but for what time, order and attempts decide."""
    ledger = Ledger(out / "ledger")
    return {
        table: sorted(
            repr([(key, value) for key, value in row.items() if key not in DIFFER | ORDER])
            for row in rows_of(ledger, table)
        )
        for table in TABLES
    }


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(3, tmp_path, secrets.token_hex(16)) as made:
        yield made


class Course:
    """A search with two workers, for which only hosts 1 and 2 have the room."""

    def __init__(self, hosts: Hosts, sweep: Path, folder: Path) -> None:
        self.hosts, self.folder, self.out = hosts, folder, folder / "run"
        address_of_head = f"{address(0)}:6380"
        self.command = [
            *(sys.executable, "launch.py", "run", str(sweep), "--out", str(self.out)),
            *("--continue", "--take-over", "--address", address_of_head),
        ]

    def start(self) -> None:
        """Start the driver's host; the others join it."""
        self.hosts.start_node(0, 0, self.command)
        for host in (1, 2):
            self.hosts.start_node(host, 1)

    def rungs(self) -> int:
        return len(rows_of(Ledger(self.out / "ledger"), "rungs", ["candidate"]))

    def wait_for_rungs(self, number: int) -> None:
        self.wait(lambda: self.out.is_dir() and self.rungs() >= number)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.hosts.node(0).poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def end(self) -> str:
        """Wait for the end of the run and return what the driver printed."""
        status = self.hosts.node(0).wait(DEADLINE_S)
        assert status == 0, self.log()
        return self.log()

    def log(self) -> str:
        return (self.folder / "node0.log").read_text()

    def hosts_of_workers(self) -> set[str]:
        return {row["host"] for row in rows_of(Ledger(self.out / "ledger"), "workers")}


@pytest.fixture
def sweep(write_sweep: Write) -> Path:
    return write_sweep(
        families={
            "prompt": {"candidates": 60, "demonstrations": [0, 1]},
            "lora": {
                "candidates": 30,
                "rank": [1, 2],
                "target_modules": [["q_proj"]],
                "steps": [4],
                "batch_size": 2,
            },
        },
        scheduler={"kind": "full"},
        workers={"per_model": 2, "min_per_model": 1, "cpus": 0.9},
    )


@pytest.fixture
def undisturbed(sweep: Path, tmp_path: Path) -> Any:
    from kilobit import launch

    out = tmp_path / "undisturbed"
    assert launch.main(["run", str(sweep), "--out", str(out), "workers.cpus=0.4"]) == 0
    return content(out)


def test_the_death_of_a_worker_s_host_changes_nothing(
    hosts: Hosts, sweep: Path, tmp_path: Path, undisturbed: Any
) -> None:
    course = Course(hosts, sweep, tmp_path)
    course.start()
    course.wait_for_rungs(8)
    hosts.kill(1)
    course.wait_for_rungs(course.rungs() + 8)
    hosts.start_node(1, 1)
    course.end()
    assert content(course.out) == undisturbed
    assert course.hosts_of_workers() == {"host1", "host2"}


def test_a_run_whose_driver_s_host_died_goes_on(
    hosts: Hosts, sweep: Path, tmp_path: Path, undisturbed: Any
) -> None:
    course = Course(hosts, sweep, tmp_path)
    course.start()
    course.wait_for_rungs(10)
    hosts.kill(0)
    hosts.kill(1)
    hosts.kill(2)
    course.start()
    course.end()
    assert content(course.out) == undisturbed


def test_a_cut_of_a_minute_changes_nothing(
    hosts: Hosts, sweep: Path, tmp_path: Path, undisturbed: Any
) -> None:
    course = Course(hosts, sweep, tmp_path)
    course.start()
    course.wait_for_rungs(8)
    hosts.cut(2)
    time.sleep(60)
    hosts.heal(2)
    course.end()
    assert content(course.out) == undisturbed


def test_doctor_looks_at_all_hosts(hosts: Hosts, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = [
        *(sys.executable, "launch.py", "doctor"),
        *("--address", f"{address(0)}:6380", "--out", str(runs)),
    ]
    waiting = ["bash", "-c", 'sleep 15; exec "$@"', "bash", *command]
    hosts.start_node(0, 0, waiting)
    for host in (1, 2):
        hosts.start_node(host, 1)
    status = hosts.node(0).wait(200)
    shown = (tmp_path / "node0.log").read_text()
    for text in ("nodes", "3, 2 CPUs", "in force", "the same everywhere", "MB/s all-reduced"):
        assert text in shown, shown
    assert f"{address(2)}: free memory" in shown
    assert status == (1 if "!!" in shown else 0)
    assert not list(runs.iterdir())
