"""Resources of a Slurm cluster, and submission of jobs, through Slurm's own commands.

A job that asks for more than the cluster has would wait forever, so this is checked before anything
is submitted.
"""

import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from kilobit.cluster.launchers.launcher import ask
from kilobit.cluster.sweep.launch_targets import SlurmConfig, seconds_of
from kilobit.search.settings import InputError

_COLUMNS = 9
# States of nodes on which nothing starts before somebody has done something.
_AWAY = re.compile(r"drain|down|fail|maint|unk|inval|future|perfctrs|reboot")
_OF_A_JOB = re.compile(
    r"(SLURM|SLURMD|SINFO|SQUEUE|PMIX?)_|(CUDA|ROCR|HIP)_VISIBLE_DEVICES$|GPU_DEVICE_ORDINAL$"
)
_OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")


@dataclass(frozen=True)
class Nodes:
    """A group of equal nodes of a partition.

    A number that is not known is infinite, so that nothing is refused for it.

    Attributes:
        number: number of nodes.
        cpus: of each.
        memory_mib: of each.
        gpus: of each.
        kind: Slurm's name for the GPUs, empty if it has none.
        features: of each.
        up: whether jobs can start on them.
    """

    number: float
    cpus: float
    memory_mib: float
    gpus: float
    kind: str
    features: frozenset[str]
    up: bool

    def has(self, cpus: int, memory_mib: float, gpus: int, features: set[str]) -> bool:
        """Return whether each of them has so much."""
        enough = self.cpus >= cpus and self.memory_mib >= memory_mib and self.gpus >= gpus
        return enough and features <= self.features

    @property
    def each(self) -> str:
        """Return the resources of a node as text."""
        kind = f" ({self.kind})" if self.kind else ""
        gpus, cpus, gib = map(_shown, (self.gpus, self.cpus, self.memory_mib / 1024))
        return f"with {gpus} GPUs{kind}, {cpus} CPUs and {gib} GiB"


def check_capacity(config: SlurmConfig, nodes: str, gpus: int, cpus: int) -> list[str]:
    """Check that a partition has the resources that a job asks for, as far as that is understood.

    Args:
        config: names the partitions; if it does not, Slurm's default is checked.
        nodes: of the job, `2` or `2-4`.
        gpus: of each node.
        cpus: of each node.

    Returns:
        A line if the job has to wait for nodes that are down, drained or reserved.

    Raises:
        InputError: listing the resources that exist, if no partition has enough.
    """
    options = dict(word.partition("=")[::2] for word in config.directives)
    partitions, limits, default = _partitions()
    names = config.partition.split(",") if config.partition else [default] if default else []
    # A cluster may have no default; nodes of a reservation or another cluster are not known.
    if not names or not partitions or {"--clusters", "--reservation"} & options.keys():
        return []
    for name in names:
        if name not in partitions:
            known = ", ".join(sorted(partitions))
            raise InputError(
                f"slurm.partition: no partition is called {name!r}; there are: {known}"
            )
    wanted = options.get("--constraint", "")
    features = set(wanted.split("&")) if re.fullmatch(r"[\w.&-]+", wanted) else set[str]()
    needs, fewest = (cpus, (config.memory_gib or 0) * 1024, gpus), int(nodes.split("-")[0])
    fits = [[one for one in partitions[name] if one.has(*needs, features)] for name in names]
    where = f"partition {' or '.join(map(repr, names))}"
    if max(sum(one.number for one in fit) for fit in fits) < fewest:
        memory = f" and {config.memory_gib:g} GiB" if config.memory_gib else ""
        such = f" of {wanted}" if features else ""
        there: dict[str, float] = defaultdict(float)
        for one in (one for name in names for one in partitions[name]):
            there[one.each] += one.number
        has = "; ".join(f"{_shown(number)} nodes {each}" for each, number in there.items())
        raise InputError(
            f"slurm: {nodes} nodes{such} with {gpus} GPUs, {cpus} CPUs{memory} each are asked for; "
            f"{where} has {has or 'no nodes'}"
        )
    limit_s = max((limits[name] or math.inf for name in names), default=math.inf)
    if config.time_s and config.time_s > limit_s:
        raise InputError(
            f"slurm.time: {config.time} is more than the limit of {where}, "
            f"{int(limit_s) // 3600}:{int(limit_s) // 60 % 60:02}:00"
        )
    here = max(sum(one.number for one in fit if one.up) for fit in fits)
    if here >= fewest:
        return []
    return [f"{where}: {fewest - here:g} of {fewest} nodes are down; the job waits for them"]


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
            answer = ask(words, env=_environment())
        except InputError as error:
            if numbers:
                ask(["scancel", *numbers])
            raise InputError(_reason(str(error), config)) from error
        numbers.append(answer.strip().split(";")[0])
    return numbers


def _environment() -> dict[str, str]:
    """Return our environment without what belongs to a job that we may be running in.

    A job inherits the variables of its submission, and would take those of another job for its own.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _OF_THE_CLUSTER or not _OF_A_JOB.match(name)
    }


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
    words = ["sinfo", "--noheader", "--exact", "--all", "--format=%P|%D|%c|%m|%G|%l|%T|%f|%a"]
    nodes: dict[str, list[Nodes]] = defaultdict(list)
    limits: dict[str, int | None] = {}
    default = None
    lines = (line.split("|") for line in ask(words, env=_environment()).split("\n"))
    for found in (found for found in lines if len(found) == _COLUMNS):
        name, number, cpus, memory, gres, limit, state, features, there = map(str.strip, found)
        if name.endswith("*"):
            default = name = name.rstrip("*")
        gpus, kinds = _gpus(gres)
        nodes[name].append(
            Nodes(
                _amount(number),
                _amount(cpus),
                _amount(memory),
                gpus,
                ", ".join(kinds),
                frozenset(features.split(",")),
                there == "up" and not _AWAY.match(state) and not state.endswith("*"),
            )
        )
        limits[name] = seconds_of(limit)
    return nodes, limits, default


def _amount(text: str) -> float:
    """Return a number of Slurm's; one that is not understood, as `64+`, may be of any size."""
    return int(text) if text.isdigit() else math.inf


def _shown(amount: float) -> str:
    return "an unknown number of" if amount == math.inf else f"{amount:.0f}"


def _gpus(gres: str) -> tuple[float, list[str]]:
    """Return the number of GPUs in a list of resources, and their kinds: `gpu:2080ti:8(S:0-1)`."""
    number, kinds = 0.0, set[str]()
    for name, *words in (one.split(":") for one in re.sub(r"\([^)]*\)", "", gres).split(",")):
        if name == "gpu":
            number += _amount(words.pop()) if words else 1
            kinds.update(word for word in words if word != "no_consume")
    return number, sorted(kinds)
