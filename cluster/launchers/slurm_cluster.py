"""Resources of a Slurm cluster, and submission of jobs, through Slurm's own commands.

A job that asks for more than the cluster has would wait forever, so this is checked before anything
is submitted.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from kilobit.cluster.launchers.launcher import ask
from kilobit.cluster.sweep.launch_targets import SlurmConfig, seconds_of
from kilobit.search.settings import InputError

_GPUS = re.compile(r"\bgpu(?::([A-Za-z][\w.-]*))?:(\d+)")


@dataclass(frozen=True)
class Nodes:
    """A group of equal nodes of a partition.

    Attributes:
        number: number of nodes.
        cpus: of each.
        memory_mib: of each.
        gpus: of each.
        kind: Slurm's name for the GPUs, empty if it has none.
    """

    number: int
    cpus: int
    memory_mib: int
    gpus: int
    kind: str

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPUs{f' ({self.kind})' if self.kind else ''}"
        memory = f"{self.memory_mib / 1024:.0f} GiB"
        return f"{self.number} nodes with {gpus}, {self.cpus} CPUs and {memory}"


def check_capacity(config: SlurmConfig, nodes: str, gpus: int, cpus: int) -> None:
    """Check that a partition has the resources that a job asks for.

    Args:
        config: names the partition; if it does not, Slurm's default is checked.
        nodes: of the job, `2` or `2-4`.
        gpus: of each node.
        cpus: of each node.

    Raises:
        InputError: listing the resources that exist, if they are not enough.
    """
    partitions, limits, default = _partitions()
    name = config.partition or default
    # A job may name several partitions, and a cluster may have no default: Slurm decides then.
    if name is None or "," in name:
        return
    if name not in partitions:
        known = ", ".join(sorted(partitions)) or "none"
        raise InputError(f"slurm.partition: no partition is called {name!r}; there are: {known}")
    groups, limit_s = partitions[name], limits[name]
    memory_mib = (config.memory_gib or 0) * 1024
    fit = sum(
        each.number
        for each in groups
        if each.gpus >= gpus and each.cpus >= cpus and each.memory_mib >= memory_mib
    )
    if fit < int(nodes.split("-")[0]):
        memory = f" and {config.memory_gib:g} GiB" if config.memory_gib else ""
        there = "; ".join(map(str, groups)) or "no nodes"
        raise InputError(
            f"slurm: {nodes} nodes with {gpus} GPUs, {cpus} CPUs{memory} each are asked for; "
            f"partition {name!r} has {there}"
        )
    if config.time_s and limit_s and config.time_s > limit_s:
        raise InputError(
            f"slurm.time: {config.time} is more than the limit of partition {name!r}, "
            f"{limit_s // 3600}:{limit_s // 60 % 60:02}:00"
        )


def submit(program: str, file: Path, config: SlurmConfig, chain: int = 1) -> list[str]:
    """Submit a batch script and return the numbers of its jobs.

    Args:
        program: sbatch.
        file: the script.
        config: settings of the script, to name the field that Slurm rejects.
        chain: number of jobs; each but the first starts only if the one before it failed.

    Raises:
        InputError: if Slurm refuses; jobs of the chain that it accepted are cancelled then.
    """
    numbers: list[str] = []
    for _ in range(chain):
        after = f"--dependency=afternotok:{numbers[-1]}" if numbers else None
        options = [after, "--kill-on-invalid-dep=yes"] if after else []
        words = [program, "--parsable", *options, str(file), *(["--take-over"] if after else [])]
        try:
            answer = ask(words)
        except InputError as error:
            if numbers:
                ask(["scancel", *numbers])
            raise InputError(_reason(str(error), config)) from error
        numbers.append(answer.strip().split(";")[0])
    return numbers


def _reason(problem: str, config: SlurmConfig) -> str:
    """Return Slurm's refusal, preceded by the field that it concerns."""
    words = problem.lower()
    for field in ("account", "partition", "qos", "time"):
        if field in words:
            found = getattr(config, field)
            return f"slurm.{field}: {found or 'not given'}: {problem}"
    return f"slurm: {problem}"


def _partitions() -> tuple[dict[str, list[Nodes]], dict[str, int | None], str | None]:
    """Return the nodes of each partition, its time limit in seconds, and the default one."""
    text = ask(["sinfo", "--noheader", "--exact", "--all", "--format=%P|%D|%c|%m|%G|%l"])
    nodes: dict[str, list[Nodes]] = defaultdict(list)
    limits: dict[str, int | None] = {}
    default = None
    for line in filter(None, text.split("\n")):
        name, number, cpus, memory, gres, limit = (word.strip() for word in line.split("|"))
        if name.endswith("*"):
            default = name = name.rstrip("*")
        gpus = _GPUS.findall(gres)
        kinds = sorted({kind for kind, _ in gpus if kind})
        have, cores, mib = (int(re.sub(r"\D", "", text) or 0) for text in (number, cpus, memory))
        all_gpus = sum(int(many) for _, many in gpus)
        nodes[name].append(Nodes(have, cores, mib, all_gpus, ", ".join(kinds)))
        limits[name] = seconds_of(limit)
    return nodes, limits, default
