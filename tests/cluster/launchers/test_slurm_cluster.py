from pathlib import Path

import pytest

from kilobit.cluster.launchers import slurm_cluster
from kilobit.cluster.launchers.slurm_cluster import check_capacity, submit
from kilobit.cluster.sweep.launch_targets import SlurmConfig
from kilobit.search.settings import InputError

SINFO = """\
main*|3|64|512000|gpu:h100:8(S:0-1)|2-00:00:00|mixed|ib,h100|up
main*|1|32|256000|(null)|2-00:00:00|idle~|(null)|up
debug|2|8|16000|gpu:a100:1,gpu:t4:2|30:00|idle|(null)|up
"""
# As they are written on clusters of other people.
ODD = """\
old|4|16|64000|gpu:2080ti:8|infinite|idle|(null)|up
mig|1|64|512000|gpu:1g.10gb:28(S:0-1),gpu:3g.40gb:2(S:0,2)|infinite|allocated|(null)|up
tesla|1|64|512000|lustre:1,gpu:tesla:no_consume:4,mps:400|infinite|idle|(null)|up
bare|1|64|512000|gpu|infinite|idle|(null)|up
mixed|2|32+|128000+|gpu:4|infinite|mixed|(null)|up
many|1.2K|32|128000|gpu:v100s:lots|infinite|mixed|(null)|up
ill|2|32|128000|gpu:4|infinite|idle|(null)|up
ill|3|32|128000|gpu:4|infinite|drained|(null)|up
ill|1|32|128000|gpu:4|infinite|down*|(null)|up
closed|2|32|128000|gpu:4|infinite|idle|(null)|down
"""


class Commands:
    """Slurm's commands, answered from a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str | Exception) -> None:
        self.asked: list[list[str]] = []
        self.environment: dict[str, str] | None = None
        self._answers = list(answers)
        monkeypatch.setattr(slurm_cluster, "ask", self._ask)

    def _ask(self, words: list[str], env: dict[str, str] | None = None) -> str:
        self.asked.append(list(words))
        self.environment = env
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("config", "nodes", "gpus", "cpus", "problem"),
    [
        ({}, "3", 8, 64, None),
        ({}, "4", 0, 32, None),
        ({}, "3-9", 8, 64, None),
        ({"partition": "debug"}, "2", 3, 8, None),
        ({"partition": "debug,main"}, "4", 0, 9, None),
        ({"partition": "debug,main"}, "4", 1, 9, "partition 'debug' or 'main' has 2 nodes with 3"),
        ({"partition": "debug,gpu"}, "1", 0, 1, r"slurm.partition: no partition is called 'gpu'"),
        ({"partition": "debug,main", "time": "0:31:00"}, "1", 0, 1, None),
        ({"directives": ["--constraint=ib&h100"]}, "3", 8, 64, None),
        ({"directives": ["--constraint=ib"]}, "4", 0, 1, "4 nodes of ib with 0 GPUs"),
        # What is not understood refuses nothing.
        ({"directives": ["--constraint=[r1|r2]"]}, "4", 0, 1, None),
        ({"directives": ["--reservation=course"]}, "9", 9, 1, None),
        ({"directives": ["--clusters=other"]}, "9", 9, 1, None),
        ({"partition": "gpu"}, "1", 0, 1, r"slurm.partition: .*'gpu'; there are: debug, main"),
        ({}, "4", 1, 1, r"4 nodes with 1 GPUs.*3 nodes with 8 GPUs \(h100\), 64 CPUs"),
        ({"partition": "debug"}, "1", 4, 1, r"2 nodes with 3 GPUs \(a100, t4\), 8 CPUs"),
        ({}, "5", 0, 1, "5 nodes"),
        ({"memory_gib": 600}, "1", 0, 1, "600 GiB"),
        ({"time": "2-00:00:01"}, "1", 0, 1, "slurm.time: .*limit of partition 'main', 48:00"),
        ({"time": "0:31:00", "partition": "debug"}, "1", 0, 1, "0:30:00"),
    ],
)
def test_what_a_cluster_does_not_have_is_named(
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, object],
    nodes: str,
    gpus: int,
    cpus: int,
    problem: str | None,
) -> None:
    Commands(monkeypatch, SINFO)
    settings = SlurmConfig.model_validate(config)
    if problem is None:
        check_capacity(settings, nodes, gpus, cpus)
        return
    with pytest.raises(InputError, match=problem):
        check_capacity(settings, nodes, gpus, cpus)


@pytest.mark.parametrize(
    ("partition", "nodes", "gpus", "there"),
    [
        ("old", 4, 8, r"4 nodes with 8 GPUs \(2080ti\), 16 CPUs and 62 GiB"),
        ("mig", 1, 30, r"1 nodes with 30 GPUs \(1g.10gb, 3g.40gb\)"),
        ("tesla", 1, 4, r"1 nodes with 4 GPUs \(tesla\)"),
        ("bare", 1, 1, "1 nodes with 1 GPUs,"),
        ("mixed", 2, 4, "2 nodes with 4 GPUs, an unknown number of CPUs"),
        ("many", 5000, 99, None),
        ("ill", 6, 4, "6 nodes with 4 GPUs, 32 CPUs and 125 GiB$"),
        ("closed", 2, 4, "2 nodes with 4 GPUs"),
    ],
)
def test_the_gpus_of_other_peoples_clusters_are_counted(
    monkeypatch: pytest.MonkeyPatch, partition: str, nodes: int, gpus: int, there: str | None
) -> None:
    Commands(monkeypatch, ODD, ODD)
    config = SlurmConfig(partition=partition)
    check_capacity(config, f"{nodes}", gpus, 1)
    if there is not None:
        with pytest.raises(InputError, match=f"partition '{partition}' has {there}"):
            check_capacity(config, f"{nodes}", gpus + 1, 1)


def test_a_list_that_is_not_understood_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Commands(monkeypatch, "main*|3|64|512000|gpu:8|infinite\nsomething else\n")
    assert check_capacity(SlurmConfig(partition="gpu"), "9", 9, 99) == []


def test_what_may_be_larger_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Commands(monkeypatch, ODD)
    assert check_capacity(SlurmConfig(partition="mixed", memory_gib=900), "2", 4, 64) == []


@pytest.mark.parametrize(
    ("partition", "nodes", "down"), [("ill", "2", 0), ("ill", "5", 3), ("closed", "1-2", 1)]
)
def test_nodes_that_are_down_are_said_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, partition: str, nodes: str, down: int
) -> None:
    Commands(monkeypatch, ODD)
    said = f"partition '{partition}': {down} of {nodes[0]} nodes are down; the job waits for them"
    assert check_capacity(SlurmConfig(partition=partition), nodes, 4, 32) == [said] * bool(down)


def test_each_link_of_a_chain_waits_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(monkeypatch, "7\n", "8;cluster\n", "9\n")
    assert submit("/bin/sbatch", Path("job"), SlurmConfig(), 3) == ["7", "8", "9"]
    assert commands.asked[0] == ["/bin/sbatch", "--parsable", "job"]
    options = ["--dependency=afternotok:8", "--kill-on-invalid-dep=yes"]
    assert commands.asked[2] == ["/bin/sbatch", "--parsable", *options, "job", "--take-over"]


def test_a_job_inherits_nothing_of_the_job_that_submits_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_JOB_ID": "9",
        "SLURM_GPUS": "4",
        "SLURMD_NODENAME": "n1",
        "PMI_RANK": "0",
        "CUDA_VISIBLE_DEVICES": "1",
        "SQUEUE_FORMAT": "%i",
    }
    kept = {
        "SLURM_CONF": "/etc/s.conf",
        "SLURM_JWT": "t",
        "SBATCH_ACCOUNT": "physics",
        "HOME": "/h",
    }
    for name, value in (given | kept).items():
        monkeypatch.setenv(name, value)
    commands = Commands(monkeypatch, "7\n")
    submit("sbatch", Path("job"), SlurmConfig())
    assert commands.environment is not None
    assert not set(given) & set(commands.environment)
    assert {name: commands.environment.get(name) for name in kept} == kept


def test_a_refusal_names_the_field_and_leaves_nothing_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusal = InputError("sbatch says: Invalid account or account/partition combination specified")
    commands = Commands(monkeypatch, "7\n", refusal, "")
    with pytest.raises(InputError, match=r"^slurm\.account: physics: sbatch says: Invalid account"):
        submit("sbatch", Path("job"), SlurmConfig(account="physics"), 2)
    assert commands.asked[-1] == ["scancel", "7"]
