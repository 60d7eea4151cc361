"""A driver without model, GPU and much memory ends with all proofs, though hosts die meanwhile.

    pytest -m slow tests/cluster/fleet/test_crew_several_hosts.py

Needs root on Linux, for network namespaces.
"""

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kilobit.cluster.runs.folder import open_run
from tests.support.hosts.hosts import Hosts, address, are_possible
from tests.support.models import cached_from_hub
from tests.support.rows import rows_of
from tests.support.runs import proven_points

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not are_possible(), reason="making hosts needs root, ip and unshare"),
]
DEADLINE_S = 400
# Runs a command and prints the most memory that it or a process of it had, in KiB.
MEASURED = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(3, tmp_path, secrets.token_hex(16)) as made:
        yield made


def test_hosts_that_die_cost_no_proof_of_a_driver_without_the_model(
    hosts: Hosts,
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_sweep(
        base_models=[
            {"regime": "small", "hub": cached_from_hub(model_folders["llama"], tmp_path / "cache")}
        ],
        families={"prompt": {"candidates": 8, "demonstrations": [0, 1, 2]}},
        rungs={"examples": 8, "train_steps": 1, "eta": 2, "count": 1},
        workers={"per_model": 2, "min_per_model": 1, "cpus": 0.9},
        certify=True,
    )
    out, log = tmp_path / "run", tmp_path / "node0.log"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    command = [
        *("env", f"HF_HOME={tmp_path / 'none'}", "CUDA_VISIBLE_DEVICES="),
        *(sys.executable, "-c", MEASURED, sys.executable, "launch.py", "run", str(path)),
        *("--out", str(out), "--address", f"{address(0)}:6380"),
    ]

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while text not in log.read_text():
            assert hosts.node(0).poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    hosts.start_node(0, 0, command)
    for host in (1, 2):
        hosts.start_node(host, 1)
    wait_for("verifying ")
    time.sleep(8)
    hosts.kill(1)
    hosts.start_node(1, 1)
    wait_for("certifying ")
    time.sleep(8)
    hosts.kill(2)
    status = hosts.node(0).wait(DEADLINE_S)
    shown = log.read_text()
    assert status == 0, shown
    run = open_run(out)
    proven_points(run)
    assert len(rows_of(run.ledger, "openings")) == 1
    peak = int(shown.split("peak ")[1].split()[0])
    assert peak < 1 << 20, f"{peak} KiB"
