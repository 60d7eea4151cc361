"""Settings of a sweep's launch on a Slurm cluster.

The values become `#SBATCH` lines and words of a batch script. Values that could be more than one
word there (white space, quotes, `;`, `$`, line ends) are rejected.
"""

import re
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from evaluators.config import Config

# Ray's socket paths add 75 characters to this folder, and the system allows 107.
_MOST_SCRATCH = 24
_TIME = re.compile(r"(?:(\d{1,4})-)?(\d{1,3}):([0-5]\d):([0-5]\d)")
_NODES = re.compile(r"([1-9]\d*)-([1-9]\d*)")
# Brackets, `&` and `|` are Slurm's own: --nodelist=n[1-4], --constraint=a100&ib.
_DIRECTIVE = re.compile(r"(--[a-z][a-z-]*)(=[A-Za-z0-9_.,:/@%+=&|*()\[\]-]+)?")
_OURS = {
    "--nodes": "slurm.nodes",
    "--partition": "slurm.partition",
    "--account": "slurm.account",
    "--qos": "slurm.qos",
    "--time": "slurm.time",
    "--gpus-per-node": "slurm.gpus_per_node",
    "--cpus-per-task": "slurm.cpus_per_node",
    "--mem": "slurm.memory_gib",
    "--output": "slurm.output",
    "--signal": "slurm.warning_s",
    "--requeue": "slurm.requeue",
    "--no-requeue": "slurm.requeue",
    "--no-kill": "slurm.keep_rest",
    "--dependency": "--chain",
    "--array": "several sweep files",
    **dict.fromkeys(
        ("--job-name", "--ntasks", "--ntasks-per-node", "--open-mode", "--chdir", "--wrap"),
        "kilobit itself",
    ),
}
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,@+-]*$", max_length=200)]


class SlurmConfig(Config):
    """A Slurm job with a Ray cluster and the run on it; does not change what is searched."""

    nodes: Annotated[
        int | str | None,
        Field(
            description="nodes of the job, or the fewest and the most of them as `2-4`; by default "
            "as many as the workers need"
        ),
    ] = None
    partition: Annotated[_Word | None, Field(description="partition of the job")] = None
    account: Annotated[_Word | None, Field(description="account to charge")] = None
    qos: Annotated[_Word | None, Field(description="quality of service")] = None
    time: Annotated[
        str | None,
        Field(
            description='time limit in quotes, "HH:MM:SS" or "D-HH:MM:SS"; the partition\'s by '
            "default"
        ),
    ] = None
    gpus_per_node: Annotated[
        int | None, Field(ge=0, description="GPUs requested per node; by default as needed")
    ] = None
    cpus_per_node: Annotated[
        int | None, Field(ge=1, description="CPUs requested per node; by default as needed")
    ] = None
    memory_gib: Annotated[
        float | None, Field(gt=0, description="memory requested per node; by default Slurm's own")
    ] = None
    container: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_.,:/@%+=-]+( [A-Za-z0-9_.,:/@%+=-]+)*$",
            description="command put before ours, e.g. `apptainer exec --nv kilobit.sif`",
        ),
    ] = None
    setup: Annotated[
        tuple[str, ...],
        Field(description="shell lines run on every node first, e.g. `module load cuda`"),
    ] = ()
    directives: Annotated[
        tuple[str, ...], Field(description="further `#SBATCH` options, e.g. `--constraint=h100`")
    ] = ()
    warning_s: Annotated[
        int,
        Field(
            ge=1,
            le=65535,
            description="seconds before the time limit at which Slurm warns the run; it may do so "
            "a minute earlier",
        ),
    ] = 120
    requeue: Annotated[
        bool, Field(description="queue the job again when its time is over or a node died")
    ] = True
    keep_rest: Annotated[
        bool,
        Field(
            description="go on with the other nodes when one dies; if it was the first one, Slurm "
            "leaves the job idle. By default the whole job is started again"
        ),
    ] = False
    output: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_.%/+=@-]+$",
            description="file for the job's output, in a folder that exists; %x is the job's name, "
            "%j its number",
        ),
    ] = "%x-%j.out"
    interface: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
            description="network device of the first node that other nodes connect to, e.g. `ib0`; "
            "by default the address that Slurm uses",
        ),
    ] = None
    scratch: Annotated[
        str,
        Field(
            pattern=r"^/[A-Za-z0-9_./-]*$",
            max_length=_MOST_SCRATCH,
            description="folder for Ray's own files, on a local disk of each node",
        ),
    ] = "/tmp"  # noqa: S108

    @field_validator("nodes")
    @classmethod
    def _is_a_range(cls, nodes: int | str | None) -> int | str | None:
        if isinstance(nodes, int) and nodes < 1:
            raise ValueError("a job has at least 1 node")
        if isinstance(nodes, str):
            found = _NODES.fullmatch(nodes)
            if not found or int(found[1]) > int(found[2]):
                raise ValueError("nodes is a whole number, or a range such as 2-4")
        return nodes

    @field_validator("time", mode="before")
    @classmethod
    def _is_a_time(cls, time: Any) -> Any:
        if isinstance(time, str) and not _TIME.fullmatch(time):
            raise ValueError('a time limit is written "HH:MM:SS" or "D-HH:MM:SS"')
        if time is not None and not isinstance(time, str):
            raise ValueError(
                'a time limit is written in quotes, "HH:MM:SS" or "D-HH:MM:SS": without them '
                "YAML reads a number"
            )
        return time

    @field_validator("setup")
    @classmethod
    def _are_lines(cls, setup: tuple[str, ...]) -> tuple[str, ...]:
        for line in setup:
            if not line.strip() or not line.isprintable():
                raise ValueError(f"{line!r}: each is one line of shell, with nothing unprintable")
        return setup

    @field_validator("directives")
    @classmethod
    def _are_directives(cls, directives: tuple[str, ...]) -> tuple[str, ...]:
        for text in directives:
            found = _DIRECTIVE.fullmatch(text)
            if not found:
                raise ValueError(
                    f"{text!r}: an option is written --name or --name=value, without white space, "
                    "quotes and signs of the shell"
                )
            if found[1] in _OURS:
                raise ValueError(f"{text!r}: {found[1]} is set by {_OURS[found[1]]}")
        return directives

    @model_validator(mode="after")
    def _is_warned_in_time(self) -> Self:
        limit = self.time_s
        if limit is not None and limit <= self.warning_s:
            raise ValueError(
                f"warning_s {self.warning_s} must be less than the time limit of {limit} s"
            )
        return self

    @property
    def time_s(self) -> int | None:
        """Return the time limit in seconds, None for that of the partition."""
        return None if self.time is None else seconds_of(self.time)

    @property
    def fewest_nodes(self) -> int | None:
        """Return the fewest nodes of the job, None if as many as the workers need."""
        return int(self.nodes.split("-")[0]) if isinstance(self.nodes, str) else self.nodes


def seconds_of(time: str) -> int | None:
    """Return the seconds of a time as Slurm writes it, None if it is no time (`infinite`)."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return None
    if len(parts) == 2 and not dash:
        parts = ["0", *parts]
    hours, minutes, seconds = [*map(int, parts), 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
