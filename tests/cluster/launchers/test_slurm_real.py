"""Searches under a real Slurm: a controller and two compute nodes on this machine.

    tests/support/launchers/slurm_lab.sh install      (Debian's packages, once)
    pytest -m slow tests/cluster/launchers/test_slurm_real.py

Needs root, and takes about ten minutes on two cores.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from kilobit.cluster.runs.folder import open_run
from kilobit.cluster.runs.fronts import num_ended
from kilobit.evaluators.ledger.ledger import Ledger
from tests.conftest import REPOSITORY
from tests.support.driver.ledgers import content
from tests.support.rows import rows_of

_LAB = REPOSITORY / "tests" / "support" / "launchers" / "slurm_lab.sh"
_MISSING = [
    name for name in ("slurmctld", "slurmd", "munged", "ip", "nsenter") if not shutil.which(name)
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts of their own need root"),
    pytest.mark.skipif(bool(_MISSING), reason=f"{_MISSING} not found: slurm_lab.sh install"),
]
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
# One worker, so that what is decided does not depend on who is quicker.
_SWEEP = {
    "name": "small",
    "task": {"kind": "miniature", "name": "numbers"},
    "base_models": [
        {"regime": "posttrained", "path": str(REPOSITORY / "examples" / "tiny" / "posttrained")}
    ],
    "families": {
        "prompt": {"candidates": 4, "demonstrations": [0, 1]},
        "lora": {"candidates": 2, "rank": [1], "target_modules": [["q_proj"]], "steps": [20]},
    },
    "rungs": {"examples": 18, "train_steps": 10, "eta": 3, "count": 3},
    "rate_search": {"keep": [1.0]},
    "workers": {"cpus": 1.5},
    "slurm": {"nodes": 2, "cpus_per_node": 2},
}


class Lab:
    """A Slurm cluster; its nodes are n1 and n2, its login node n0."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command on the login node, in the folder of the lab."""
        return subprocess.Popen(
            [str(_LAB), "on", str(self.folder), "0", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=os.environ
            | {
                "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(REPOSITORY),
            },
        )

    def run(self, *words: str, status: int = 0) -> str:
        """Run a command on the login node and return what it prints."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, f"{words}: {out}{err}"
        return out + err

    def kilobit(self, *words: str, status: int = 0) -> str:
        return self.run("kilobit", *words, status=status)

    def submit(self, *words: str) -> list[str]:
        """Submit by `kilobit slurm` and return the numbers of the jobs."""
        said = re.match(r"job ([\d, then]*):", self.kilobit("slurm", *words))
        assert said
        return re.findall(r"\d+", said[1])

    def job(self, number: str) -> dict[str, str]:
        shown = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(re.findall(r"(\w+)=(\S*)", shown))

    def printed(self, number: str, name: str = "small") -> str:
        path = self.folder / f"{name}-{number}.out"
        return path.read_text("utf-8") if path.exists() else ""

    def wait(self, number: str, until: Callable[[], bool], what: str, name: str = "small") -> None:
        deadline = time.monotonic() + 400
        while not until():
            late = time.monotonic() > deadline or self.job(number)["JobState"] in _ENDED
            # It may have come to that between the two looks.
            assert not late or until(), f"no {what}: {self.printed(number, name)}"
            time.sleep(0.5)

    def end(self, number: str, state: str = "COMPLETED", name: str = "small") -> dict[str, str]:
        """Wait for the end of a job and return what Slurm knows of it."""
        self.wait(number, lambda: self.job(number)["JobState"] in _ENDED, "end", name)
        job = self.job(number)
        assert job["JobState"] == state, self.printed(number, name)
        return job

    def warn_in_the_middle(self, number: str, out: Path) -> None:
        """Give the signal that Slurm gives before the time limit, after the first rung."""
        self.wait(number, lambda: bool(num_rungs(out)), "rung")
        self.run("scancel", "--signal=USR1", "--batch", number)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "bin").mkdir()
    program = folder / "bin" / "kilobit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {REPOSITORY}/launch.py "$@"\n')
    program.chmod(0o755)
    (folder / "bin" / "ray").symlink_to(Path(sys.executable).parent / "ray")
    (folder / "small.yaml").write_text(yaml.safe_dump(_SWEEP), "utf-8")
    subprocess.run([str(_LAB), "up", str(folder), "2"], check=True, timeout=120)
    try:
        yield Lab(folder)
    finally:
        subprocess.run([str(_LAB), "down", str(folder)], check=True, timeout=60)


@pytest.fixture(scope="module")
def undisturbed(lab: Lab) -> dict[str, list[str]]:
    """Return the ledger of the small sweep as one process on one machine writes it."""
    out = lab.folder / "undisturbed"
    words = [sys.executable, str(REPOSITORY / "launch.py"), "run", "small.yaml", "--out", str(out)]
    subprocess.run([*words, "workers.cpus=null"], check=True, cwd=lab.folder, timeout=400)
    return content(out)


def num_rungs(out: Path) -> int:
    return len(rows_of(Ledger(out / "ledger"), "rungs")) if (out / "run.json").exists() else 0


def read(path: Path) -> str:
    # Ray takes files away as it likes.
    with suppress(FileNotFoundError):
        return path.read_bytes().decode("latin-1")
    return ""


def leftovers(number: str) -> list[str]:
    """Return what a job left: folders for sockets, and processes."""
    mark = f"/kb{number}."
    processes = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    return [
        *map(str, Path("/tmp").glob(f"kb{number}.*")),
        *(" ".join(words) for words in processes if any(mark in word for word in words)),
    ]


def gcs_of(number: str) -> psutil.Process:
    """Return the process of Ray's head in a job."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words and words[0].endswith("gcs_server") and any(f"/kb{number}." in w for w in words):
            return process
    raise AssertionError(f"job {number} has no head")


def head_of(number: str) -> tuple[str, str]:
    """Return the address and the token of Ray's head in a job."""
    (file,) = Path("/tmp").glob(f"kb{number}.0-*/r/ray_current_cluster")
    return file.read_text("ascii"), gcs_of(number).environ()["RAY_AUTH_TOKEN"]


def test_the_quickstart_runs_on_both_nodes_and_leaves_nothing_behind(lab: Lab) -> None:
    out = lab.folder / "quick"
    (number,) = lab.submit(
        *(str(REPOSITORY / "examples" / "quickstart.yaml"), "--out", str(out)),
        *("slurm.nodes=2", "budget.candidates=6", "rungs.count=2"),
    )
    lab.wait(number, lambda: bool(num_rungs(out)), "rung", "quickstart")
    address, token = head_of(number)
    assert re.fullmatch(r"[0-9a-f]{32}", token)
    files = [path for path in Path("/tmp").glob(f"kb{number}.*/**/*") if path.is_file()]
    assert files
    seen = [read(path) for path in files]
    seen += [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert sum(address in words for words in seen) >= 2
    lab.end(number, name="quickstart")
    rows = rows_of(Ledger(out / "ledger"), "workers")
    assert {row["host"] for row in rows} == {"n1", "n2"}
    assert {row["model"] for row in rows} == {"random", "pretrained", "posttrained"}
    assert "6 of 6 candidates ended" in lab.printed(number, "quickstart")
    # The token was nowhere but in the environment.
    seen += [read(path) for path in lab.folder.rglob("*") if path.is_file()]
    assert not [text[:200] for text in seen if token in text]
    assert not leftovers(number)


def test_a_warned_job_is_requeued_and_nothing_is_lost(
    lab: Lab, undisturbed: dict[str, list[str]]
) -> None:
    out = lab.folder / "warned"
    (number,) = lab.submit("small.yaml", "--out", str(out))
    lab.warn_in_the_middle(number, out)
    done = rows_of(Ledger(out / "ledger"), "rungs")
    lab.wait(number, lambda: lab.job(number)["Restarts"] == "1", "requeue")
    lab.end(number)
    assert content(out) == undisturbed
    # What was finished before the warning is there as it was.
    kept = {
        (row["candidate"], row["rung"]): row for row in rows_of(Ledger(out / "ledger"), "rungs")
    }
    assert all(kept[row["candidate"], row["rung"]] == row for row in done)
    attempts = json.loads((out / "run.json").read_text("utf-8"))["attempts"]
    assert [("--take-over" in attempt["command"]) for attempt in attempts] == [False, True]
    assert "the run is told to stop" in lab.printed(number)
    assert not leftovers(number)


def test_two_jobs_on_the_same_nodes_keep_apart_and_let_no_stranger_in(
    lab: Lab, undisturbed: dict[str, list[str]]
) -> None:
    outs = [lab.folder / "left", lab.folder / "right"]
    numbers = [
        lab.submit("small.yaml", "--out", str(out), "slurm.gpus_per_node=1")[0] for out in outs
    ]
    for number, out in zip(numbers, outs, strict=True):
        lab.wait(number, lambda out=out: bool(num_rungs(out)), "rung")
    heads = [head_of(number) for number in numbers]
    assert heads[0][0] != heads[1][0]
    assert heads[0][1] != heads[1][1]
    # What the job has of each node, not what the node has.
    assert knock(lab, *heads[0]) == "[[2.0, 1.0], [2.0, 1.0]]"
    # With the token of the neighbour, and with none.
    assert knock(lab, heads[0][0], heads[1][1]) == "refused"
    assert knock(lab, heads[1][0], None) == "refused"
    jobs = [lab.end(number) for number in numbers]
    assert {job["NodeList"] for job in jobs} == {"n[1-2]"}
    assert max(job["StartTime"] for job in jobs) < min(job["EndTime"] for job in jobs)
    assert [content(out) for out in outs] == [undisturbed, undisturbed]
    assert not [left for number in numbers for left in leftovers(number)]


def knock(lab: Lab, address: str, token: str | None) -> str:
    """Ask a job's Ray from the login node what it has; return that, or how it refuses."""
    script = (
        "import ray, sys\n"
        "from ray._raylet import GcsClient\n"
        "try: nodes = GcsClient(address=sys.argv[1]).get_all_node_info().values()\n"
        "except ray.exceptions.AuthenticationError: print('refused')\n"
        "else: print([[n.resources_total[k] for k in ('CPU', 'GPU')] for n in nodes])\n"
    )
    auth = ["RAY_AUTH_MODE=disabled" if token is None else "RAY_AUTH_MODE=token"]
    auth += [] if token is None else [f"RAY_AUTH_TOKEN={token}"]
    return lab.run("env", *auth, sys.executable, "-c", script, address).split("\n")[0]


def test_jobs_that_an_element_of_an_array_submits_are_runs_of_their_own(lab: Lab) -> None:
    script = """
export SLURM_RESTART_COUNT=2
kilobit slurm small.yaml slurm.nodes=1 --out inner
kilobit slurm small.yaml slurm.nodes=1 name=printed --out printed --print >printed.sbatch
sbatch --parsable printed.sbatch
"""
    wanted = ("--array=3", "--gpus-per-node=2", "--parsable", "--output=outer.out")
    outer = lab.run("sbatch", *wanted, f"--wrap={script}").strip()
    lab.wait(f"{outer}_3", lambda: lab.job(f"{outer}_3")["JobState"] in _ENDED, "end")
    said = (lab.folder / "outer.out").read_text("utf-8")
    found = re.match(r"job (\d+):", said)
    assert found, said
    numbers = {"small": found[1], "printed": said.split()[-1]}
    for name, number in numbers.items():
        job = lab.end(number, name=name)
        assert job["Restarts"] == "0"
        assert "6 of 6 candidates ended" in lab.printed(number, name)
        assert not leftovers(number)


def test_a_chain_goes_on_and_ends_when_the_run_is_done(
    lab: Lab, undisturbed: dict[str, list[str]]
) -> None:
    out = lab.folder / "chain"
    first, second, third = lab.submit("small.yaml", "--out", str(out), "--chain", "3")
    lab.warn_in_the_middle(first, out)
    job = lab.end(first, "FAILED")
    assert job["ExitCode"] == "130:0"
    assert job["Restarts"] == "0"
    lab.end(second)
    lab.end(third, "CANCELLED")
    assert content(out) == undisturbed


def test_a_preempted_job_goes_on_when_its_nodes_are_free_again(
    lab: Lab, undisturbed: dict[str, list[str]]
) -> None:
    out = lab.folder / "preempted"
    (number,) = lab.submit("small.yaml", "--out", str(out))
    lab.wait(number, lambda: bool(num_rungs(out)), "rung")
    wanted = ["--partition=urgent", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4"]
    lab.run("sbatch", *wanted, "--output=urgent.out", "--wrap=sleep 3")
    lab.wait(number, lambda: lab.job(number)["Restarts"] == "1", "requeue")
    lab.end(number)
    assert content(out) == undisturbed
    assert not leftovers(number)


def test_a_cancelled_job_is_not_started_again_and_leaves_nothing_behind(lab: Lab) -> None:
    out = lab.folder / "cancelled"
    (number,) = lab.submit("small.yaml", "--out", str(out))
    lab.wait(number, lambda: bool(num_rungs(out)), "rung")
    lab.run("scancel", number)
    lab.end(number, "CANCELLED")
    lab.wait(number, lambda: not lab.run("squeue", "--noheader", "--job", number), "quiet")
    assert "Slurm ends the job" in lab.printed(number)
    assert "interrupted; every finished rung is kept" in lab.printed(number)
    assert not leftovers(number)


def test_what_the_cluster_does_not_have_is_said_before_anything_is_submitted(lab: Lab) -> None:
    def refused(*words: str) -> str:
        return lab.kilobit("slurm", "small.yaml", *words, status=2)

    assert "no partition is called 'gpu'; there are: main, short, urgent" in refused(
        "slurm.partition=gpu"
    )
    said = refused("slurm.gpus_per_node=8")
    assert "2 nodes with 8 GPUs" in said
    assert "partition 'main' has 2 nodes with 2 GPUs (h100), 4 CPUs and 8 GiB" in said
    assert "3 nodes with 0 GPUs" in refused("slurm.nodes=3")
    assert "slurm.time: 0:20:00 is more than the limit of partition 'short', 0:10:00" in refused(
        "slurm.partition=short", "slurm.time='0:20:00'"
    )
    said = refused("slurm.directives=[--licenses=gold]")
    assert "slurm: sbatch says: Batch job submission failed: Invalid license" in said
    assert not lab.run("squeue", "--noheader", "--name=small", "--states=PENDING")
    assert not list(lab.folder.glob("runs/small"))


@pytest.mark.usefixtures("undisturbed")
def test_a_job_goes_on_without_a_node_that_died(lab: Lab) -> None:
    out = lab.folder / "death"
    (number,) = lab.submit(
        *("small.yaml", "--out", str(out), "slurm.keep_rest=true"),
        *("workers.per_model=2", "workers.min_per_model=1"),
    )
    lab.wait(number, lambda: len(rows_of(Ledger(out / "ledger"), "workers")) == 2, "second worker")
    lab.wait(number, lambda: bool(num_rungs(out)), "rung")
    subprocess.run([str(_LAB), "kill", str(lab.folder), "2"], check=True)
    try:
        lab.end(number)
    finally:
        subprocess.run([str(_LAB), "start", str(lab.folder), "2"], check=True)
    assert lab.job(number)["Restarts"] == "0"
    run = open_run(out)
    assert run.attempt == 1
    assert " lost its node" in (out / "run.log").read_text("utf-8")
    # Two workers are asked in another order than one, which decides what a result is compared with.
    wanted = ["candidate", "spec"]
    expected = rows_of(Ledger(lab.folder / "undisturbed" / "ledger"), "candidates", wanted)
    found = rows_of(run.ledger, "candidates", wanted)
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert num_ended(run) == len(expected)
    assert {row["error"] for row in rows_of(run.ledger, "rungs")} == {None}


def test_a_job_whose_first_node_died_is_started_again(
    lab: Lab, undisturbed: dict[str, list[str]]
) -> None:
    out = lab.folder / "headless"
    (number,) = lab.submit("small.yaml", "--out", str(out))
    lab.wait(number, lambda: bool(num_rungs(out)), "rung")
    subprocess.run([str(_LAB), "kill", str(lab.folder), "1"], check=True)
    lab.wait(number, lambda: lab.job(number)["Restarts"] == "1", "requeue")
    subprocess.run([str(_LAB), "start", str(lab.folder), "1"], check=True)
    lab.end(number)
    assert content(out) == undisturbed
