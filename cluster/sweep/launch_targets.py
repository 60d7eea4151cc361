"""Settings of the launch targets Slurm and Kubernetes in a sweep file.

Values for Slurm become `#SBATCH` lines and words of a batch script. Values that could be more than
one word there (white space, quotes, `;`, `$`, line ends) are rejected.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kilobit.search.settings import Config

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
# RFC 1035: names of services begin with a letter. KubeRay appends up to 16 characters to ours.
MOST_LABEL = 47
LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
# RFC 1123: other names may begin with a digit, and those of secrets and claims have several parts.
_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_FOLDER = r"^(/[A-Za-z0-9._=-]+)+$"
# Labels of nodes: a key may have a prefix, and a value may be empty.
_WORD = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_KEY = rf"^({_NAME}(\.{_NAME})*/)?{_WORD}$"
_SECRET_WORD = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS)(_|$)", re.IGNORECASE
)


class SlurmConfig(Config):
    """A Slurm job with a Ray cluster and the run on it; does not change what is searched."""

    nodes: int | str | None = None
    """nodes of the job, or the fewest and the most of them as `2-4`; by default as many as the
    workers need"""
    partition: _Word | None = None
    """partition of the job"""
    account: _Word | None = None
    """account to charge"""
    qos: _Word | None = None
    """quality of service"""
    time: str | None = None
    """time limit in quotes, "HH:MM:SS" or "D-HH:MM:SS"; the partition's by default"""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """GPUs requested per node; by default as needed"""
    cpus_per_node: int | None = Field(default=None, ge=1)
    """CPUs requested per node; by default as needed"""
    memory_gib: float | None = Field(default=None, gt=0)
    """memory requested per node; by default Slurm's own"""
    container: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_.,:/@%+=-]+( [A-Za-z0-9_.,:/@%+=-]+)*$"
    )
    """command put before ours, e.g. `apptainer exec --nv kilobit.sif`"""
    setup: tuple[str, ...] = ()
    """shell lines run on every node first, e.g. `module load cuda`"""
    directives: tuple[str, ...] = ()
    """further `#SBATCH` options, e.g. `--constraint=h100`"""
    warning_s: int = Field(default=120, ge=1, le=65535)
    """seconds before the time limit at which Slurm warns the run; it may do so a minute earlier"""
    requeue: bool = True
    """queue the job again when its time is over or a node died"""
    keep_rest: bool = False
    """go on with the other nodes when one dies; if it was the first one, Slurm leaves the job idle.
    By default the whole job is started again"""
    output: str = Field(default="%x-%j.out", pattern=r"^[A-Za-z0-9_.%/+=@-]+$")
    """file for the job's output, in a folder that exists; %x is the job's name, %j its number"""
    interface: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """network device of the first node that other nodes connect to, e.g. `ib0`; by default the
    address that Slurm uses"""
    scratch: str = Field(default="/tmp", pattern=r"^/[A-Za-z0-9_./-]*$", max_length=_MOST_SCRATCH)  # noqa: S108
    """folder for Ray's own files, on a local disk of each node"""

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


Object = Annotated[str, Field(pattern=rf"^{_NAME}(\.{_NAME})*$", max_length=253)]
LabelKey = Annotated[str, Field(pattern=_KEY, max_length=317)]
LabelValue = Annotated[str, Field(pattern=rf"^({_WORD})?$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class TolerationConfig(Config):
    """A taint of nodes that the pods tolerate."""

    key: LabelKey | None = None
    """key of the taint; null is all keys"""
    operator: Literal["Equal", "Exists"] = "Equal"
    """compare the value, or accept any"""
    value: LabelValue | None = None
    """value of the taint"""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """effect of the taint; null is all effects"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator `Exists` has no `value`")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("a toleration without `key` needs operator `Exists`")
        return self


class KubernetesConfig(Config):
    """Pods of a Ray cluster and the run on it; does not change what is searched."""

    kind: Literal["job", "cluster"] = "job"
    """`job`: a RayJob whose cluster ends with the run; `cluster`: a RayCluster that stays, and a
    Job that drives it"""
    name: str | None = Field(default=None, pattern=LABEL, max_length=MOST_LABEL)
    """name of the objects: lower case letters, digits and dashes; from the sweep's name by
    default"""
    namespace: str | None = Field(default=None, pattern=rf"^{_NAME}$", max_length=63)
    """namespace; kubectl's current by default"""
    image: str | None = Field(default=None, pattern=r"^\S+$")
    """image with kilobit and ray[default]; required"""
    image_pull_secrets: tuple[Object, ...] = ()
    """names of secrets for the image's registry"""
    ray_version: str | None = Field(default=None, pattern=r"^\d+\.\d+\.\d+$")
    """version of Ray in the image; must equal that of the launching machine, which is the
    default"""
    claim: Object | None = None
    """an existing persistent volume claim, mounted in all pods"""
    mount_path: str = Field(default="/data", pattern=_FOLDER)
    """where the claim appears"""
    out: str | None = Field(default=None, pattern=r"^(/|[a-z][a-z0-9+.-]*://)[A-Za-z0-9._/@:+=-]*$")
    """run folder: a path below `mount_path` or an object storage URL; MOUNT_PATH/runs/NAME by
    default"""
    sweep_folder: str = Field(default="/sweep", pattern=_FOLDER)
    """folder of the sweep file in the pods; its relative paths start there, so to use data in the
    image or the volume give a folder there"""
    secrets: tuple[Object, ...] = ()
    """names of secrets whose keys become environment variables"""
    env: dict[VariableName, str] = {}  # noqa: RUF012 - pydantic copies it
    """further environment variables; never secrets"""
    head_cpus: int = Field(default=2, ge=1)
    """CPUs of the head, which drives the run"""
    head_memory_gib: int | None = Field(default=None, ge=1)
    """memory of the head; by default for Ray, the driver, and the candidates of the budget"""
    memory_gib: int = Field(default=16, ge=1)
    """memory for each rank of a worker"""
    shared_memory_gib: int = Field(default=2, ge=1)
    """size of /dev/shm; counts as memory of its pod"""
    gpu_resource: str = Field(default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")
    """name of a GPU resource"""
    gpus_per_node: int = Field(default=8, ge=1)
    """GPUs of a machine; a pod asks for no more"""
    cpus_per_node: int | None = Field(default=None, ge=1)
    """CPUs of a machine; a pod asks for no more"""
    node_selector: dict[LabelKey, LabelValue] = {}  # noqa: RUF012 - pydantic copies it
    """labels of the nodes that workers run on"""
    tolerations: tuple[TolerationConfig, ...] = ()
    """taints that the workers accept"""
    user: int = Field(default=1000, ge=1)
    """user id in the pods, never root"""
    group: int = Field(default=1000, ge=1)
    """group id, also of the files of volumes"""
    read_only_root: bool = False
    """mount the root file system of the pods read-only; then `/tmp` is a volume, and the home"""
    queue: Object | None = Field(default=None, max_length=63)
    """Kueue's local queue; the pods wait until it admits them"""
    autoscale: bool = False
    """let Ray's autoscaler add and remove worker pods"""
    min_replicas: int | None = Field(default=None, ge=0)
    """fewest worker pods of a group, kept even while idle; only with `autoscale`, 0 by default"""
    max_replicas: int | None = Field(default=None, ge=1)
    """most worker pods of a group; only with `autoscale`, by default as many as the workers need"""
    idle_s: int = Field(default=120, ge=1)
    """seconds after which the autoscaler removes an idle pod"""
    retries: int = Field(default=3, ge=0)
    """attempts after the first; each resumes the run"""
    grace_s: int = Field(default=120, ge=10)
    """seconds that a pod gets to stop; the run commits its results"""
    keep_s: int = Field(default=600, ge=0)
    """seconds until the pods of a finished job are removed"""
    deadline_s: int | None = Field(default=None, ge=1)
    """seconds until the job is ended: with `cluster` of all attempts, with `job` of each (KubeRay
    counts anew), so that only `budget.seconds` limits all of them together"""

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        low, high = self.min_replicas or 0, self.max_replicas
        if high is not None and high < low:
            raise ValueError(f"max_replicas {high} is less than min_replicas {low}")
        return self

    @model_validator(mode="after")
    def _check_secrets(self) -> Self:
        shown = next((name for name in self.env if _SECRET_WORD.search(name)), None)
        if shown is not None:
            raise ValueError(
                f"env.{shown} looks like a secret: put it into a Kubernetes secret and name that "
                "in `secrets`"
            )
        return self
