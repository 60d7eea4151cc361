"""A search that is driven from outside of its cluster.

pip install -c constraints.txt -e '.[dev,outside]'
pytest -m slow tests/cluster/fleet/test_remote_driver.py
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from kilobit.cluster.fleet.remote_driver import is_outside
from kilobit.cluster.runs.folder import open_run
from kilobit.evaluators.ledger.ledger import Ledger
from tests.conftest import REPOSITORY
from tests.support.rows import rows_of
from tests.support.runs import proven_points

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
Write = Callable[..., Path]


class Cluster:
    """A head node on this machine whose client server and job server listen."""

    def __init__(self, folder: Path) -> None:
        self.client_port, self.job_port = _free_port(), _free_port()
        self.environ = os.environ | {
            # A job is run by the `python` of its node, which is this environment's.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
        }
        ports = {
            "port": _free_port(),
            "ray-client-server-port": self.client_port,
            "dashboard-port": self.job_port,
            "dashboard-agent-listen-port": _free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        words = [f"--{name}={number}" for name, number in ports.items()]
        ray = str(Path(sys.executable).with_name("ray"))
        # Our package is not on its nodes: neither in this folder nor in the path.
        self.environ.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            [ray, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", *words],
            cwd=folder,
            env=self.environ,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.wait_for(self.client_port)
        self.wait_for(self.job_port)

    def wait_for(self, port: int) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
            else:
                return

    def kilobit(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "launch.py", *words],
            cwd=REPOSITORY,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        self.process.wait(60)
        for child in children:
            if child.is_running():
                child.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("grpc")
    # The paths of sockets are short.
    folder = Path("/tmp") / f"kb{os.getpid()}"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster
    cluster.stop()


def battery(folder: Path) -> Path:
    tasks = [{"task": {"kind": "miniature", "name": "translation"}, "examples": 4}]
    none = dict.fromkeys(("perplexity", "game", "safety"))
    path = folder / "battery.yaml"
    path.write_text(yaml.safe_dump({"tasks": tasks, "harness": [], **none}), "utf-8")
    return path


@pytest.mark.parametrize("kind", ["ray", "http"])
def test_a_search_is_driven_from_outside(
    cluster: Cluster, write_sweep: Write, tmp_path: Path, kind: str
) -> None:
    port = cluster.client_port if kind == "ray" else cluster.job_port
    address, out = f"{kind}://127.0.0.1:{port}", tmp_path / "run"
    assert is_outside(address)
    process = cluster.kilobit("run", str(write_sweep()), "--out", str(out), "--address", address)
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    assert "5 of 5 candidates ended" in shown
    assert len(rows_of(Ledger(out / "ledger"), "rungs")) >= 5
    # So are the commands that follow it.
    for words, seen in (
        (["verify", str(out)], "verified"),
        (["certify", str(out)], "certified"),
        (["scorecard", str(out), "--battery", str(battery(tmp_path)), "--json"], ""),
    ):
        process = cluster.kilobit(*words, "--address", address)
        shown, _ = process.communicate(timeout=300)
        assert process.returncode == 0, shown
        assert seen in shown
    lines = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert {line["item"] for line in lines} == {"translation"}
    proven_points(open_run(out))
    # The driver's exit status and its messages come through.
    process = cluster.kilobit("run", str(write_sweep()), "--out", str(out), "--address", address)
    shown, _ = process.communicate(timeout=300)
    assert (process.returncode, "holds a run of this sweep: continue it" in shown) == (2, True), (
        shown
    )


def test_an_interrupt_outside_ends_the_driver_in_order(
    cluster: Cluster, write_sweep: Write, tmp_path: Path
) -> None:
    address, out = f"ray://127.0.0.1:{cluster.client_port}", tmp_path / "run"
    sweep = write_sweep(families={"prompt": {"candidates": 60, "demonstrations": [0, 1, 2]}})
    process = cluster.kilobit("run", str(sweep), "--out", str(out), "--address", address)
    while process.poll() is None and not list(out.glob("ledger/rungs/*")):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130, shown
    assert f"kilobit resume {out}" in shown
