from pathlib import Path

import pytest

from kilobit.cluster.launchers import slurm_cluster
from kilobit.cluster.launchers.slurm_cluster import check_capacity, submit
from kilobit.cluster.sweep.launch_targets import SlurmConfig
from kilobit.search.settings import InputError

SINFO = """\
main*|3|64|512000|gpu:h100:8(S:0-1)|2-00:00:00
main*|1|32|256000+|(null)|2-00:00:00
debug|2|8|16000|gpu:a100:1,gpu:t4:2|30:00
"""


class Commands:
    """Slurm's commands, answered from a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str | Exception) -> None:
        self.asked: list[list[str]] = []
        self._answers = list(answers)
        monkeypatch.setattr(slurm_cluster, "ask", self._ask)

    def _ask(self, words: list[str]) -> str:
        self.asked.append(list(words))
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
        ({"partition": "debug,main"}, "9", 9, 9, None),
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


def test_each_link_of_a_chain_waits_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(monkeypatch, "7\n", "8;cluster\n", "9\n")
    assert submit("/bin/sbatch", Path("job"), SlurmConfig(), 3) == ["7", "8", "9"]
    assert commands.asked[0] == ["/bin/sbatch", "--parsable", "job"]
    options = ["--dependency=afternotok:8", "--kill-on-invalid-dep=yes"]
    assert commands.asked[2] == ["/bin/sbatch", "--parsable", *options, "job", "--take-over"]


def test_a_refusal_names_the_field_and_leaves_nothing_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusal = InputError("sbatch says: Invalid account or account/partition combination specified")
    commands = Commands(monkeypatch, "7\n", refusal, "")
    with pytest.raises(InputError, match=r"^slurm\.account: physics: sbatch says: Invalid account"):
        submit("sbatch", Path("job"), SlurmConfig(account="physics"), 2)
    assert commands.asked[-1] == ["scancel", "7"]
