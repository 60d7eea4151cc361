"""How a sweep file says where in a Slurm cluster it is launched."""

from typing import Annotated

from pydantic import Field

from evaluators.config import Config


class SlurmConfig(Config):
    """A Slurm job that holds a Ray cluster and the run in it; no part of what is searched."""

    nodes: Annotated[
        int | None, Field(ge=1, description="nodes of the job; by default what the workers need")
    ] = None
    partition: Annotated[str | None, Field(description="where the job is queued")] = None
    account: Annotated[str | None, Field(description="who is charged")] = None
    time: Annotated[
        str | None,
        Field(
            pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$",
            description="time limit, HH:MM:SS or D-HH:MM:SS; the partition's by default",
        ),
    ] = None
    gpus_per_node: Annotated[int | None, Field(ge=0, description="GPUs asked of each node")] = None
    cpus_per_node: Annotated[int | None, Field(ge=1, description="CPUs asked of each node")] = None
    memory_gib: Annotated[
        float | None, Field(gt=0, description="memory asked of each node; its default if not given")
    ] = None
    container: Annotated[
        str | None,
        Field(description="command put before ours, e.g. `apptainer exec --nv kilobit.sif`"),
    ] = None
    setup: Annotated[
        tuple[str, ...],
        Field(description="shell lines run on every node first, e.g. `module load cuda`"),
    ] = ()
    directives: Annotated[
        tuple[str, ...], Field(description="further `#SBATCH` options, e.g. `--constraint=h100`")
    ] = ()
    warning_s: Annotated[
        int, Field(ge=1, description="seconds before the time limit at which the run is told")
    ] = 120
    requeue: Annotated[
        bool, Field(description="queue the job again when its time is over or a node died")
    ] = True
    scratch: Annotated[str, Field(description="folder of each node for Ray's own files")] = "/tmp"  # noqa: S108
