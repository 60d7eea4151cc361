"""Settings of a sweep's launch on Kubernetes."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluators.config import Config

# RFC 1035: names of services begin with a letter. KubeRay appends up to 16 characters to ours.
MOST_LABEL = 47
LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
# Secrets, claims and queues may be RFC 1123 subdomains.
_OBJECT = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_FOLDER = r"^(/[A-Za-z0-9._-]+)+$"
_SECRET_WORD = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS)(_|$)", re.IGNORECASE
)

Object = Annotated[str, Field(pattern=_OBJECT, max_length=253)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class TolerationConfig(Config):
    """A taint of nodes that the pods tolerate."""

    key: Annotated[str | None, Field(description="key of the taint; null is all keys")] = None
    operator: Annotated[
        Literal["Equal", "Exists"], Field(description="compare the value, or accept any")
    ] = "Equal"
    value: Annotated[str | None, Field(description="value of the taint")] = None
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(description="effect of the taint; null is all effects"),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator `Exists` has no `value`")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("a toleration without `key` needs operator `Exists`")
        return self


class KubernetesConfig(Config):
    """Pods of a Ray cluster and the run on it; does not change what is searched."""

    kind: Annotated[
        Literal["job", "cluster"],
        Field(
            description="`job`: a RayJob whose cluster ends with the run; `cluster`: a RayCluster "
            "that stays, and a Job that drives it"
        ),
    ] = "job"
    name: Annotated[
        str | None,
        Field(
            pattern=LABEL,
            max_length=MOST_LABEL,
            description="name of the objects: lower case letters, digits and dashes; from the "
            "sweep's name by default",
        ),
    ] = None
    namespace: Annotated[
        str | None,
        Field(pattern=LABEL, max_length=63, description="namespace; kubectl's current by default"),
    ] = None
    image: Annotated[
        str | None, Field(min_length=1, description="image with kilobit and ray[default]; required")
    ] = None
    image_pull_secrets: Annotated[
        tuple[Object, ...], Field(description="names of secrets for the image's registry")
    ] = ()
    ray_version: Annotated[
        str | None,
        Field(
            pattern=r"^\d+\.\d+\.\d+$",
            description="version of Ray in the image; must equal that of the launching machine, "
            "which is the default",
        ),
    ] = None
    claim: Annotated[
        Object | None, Field(description="an existing persistent volume claim, mounted in all pods")
    ] = None
    mount_path: Annotated[str, Field(pattern=_FOLDER, description="where the claim appears")] = (
        "/data"
    )
    out: Annotated[
        str | None,
        Field(
            pattern=r"^(/|[a-z][a-z0-9+.-]*://)[A-Za-z0-9._/@:+-]*$",
            description="run folder: a path below `mount_path` or an object storage URL; "
            "MOUNT_PATH/runs/NAME by default",
        ),
    ] = None
    sweep_folder: Annotated[
        str,
        Field(
            pattern=_FOLDER,
            description="folder of the sweep file in the pods; its relative paths start there, so "
            "to use data in the image or the volume give a folder there",
        ),
    ] = "/sweep"
    secrets: Annotated[
        tuple[Object, ...],
        Field(description="names of secrets whose keys become environment variables"),
    ] = ()
    env: Annotated[
        dict[VariableName, str],
        Field(description="further environment variables; never secrets"),
    ] = {}  # noqa: RUF012 - pydantic copies it
    head_cpus: Annotated[int, Field(ge=1, description="CPUs of the head, which drives the run")] = 2
    head_memory_gib: Annotated[int, Field(ge=1, description="memory of the head")] = 8
    memory_gib: Annotated[int, Field(ge=1, description="memory for each rank of a worker")] = 16
    shared_memory_gib: Annotated[
        int, Field(ge=1, description="size of /dev/shm; counts as memory of its pod")
    ] = 2
    gpu_resource: Annotated[
        str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", description="name of a GPU resource")
    ] = "nvidia.com/gpu"
    gpus_per_node: Annotated[
        int, Field(ge=1, description="GPUs of a machine; a pod asks for no more")
    ] = 8
    cpus_per_node: Annotated[
        int | None, Field(ge=1, description="CPUs of a machine; a pod asks for no more")
    ] = None
    node_selector: Annotated[
        dict[str, str], Field(description="labels of the nodes that workers run on")
    ] = {}  # noqa: RUF012 - pydantic copies it
    tolerations: Annotated[
        tuple[TolerationConfig, ...], Field(description="taints that the workers accept")
    ] = ()
    user: Annotated[int, Field(ge=1, description="user id in the pods, never root")] = 1000
    group: Annotated[int, Field(ge=1, description="group id, also of the files of volumes")] = 1000
    queue: Annotated[
        Object | None, Field(description="Kueue's local queue; the pods wait until it admits them")
    ] = None
    autoscale: Annotated[
        bool, Field(description="let Ray's autoscaler add and remove worker pods")
    ] = False
    min_replicas: Annotated[
        int | None,
        Field(
            ge=0,
            description="fewest worker pods, kept even while idle; only with `autoscale`, 0 by "
            "default",
        ),
    ] = None
    max_replicas: Annotated[
        int | None,
        Field(
            ge=1,
            description="most worker pods; only with `autoscale`, by default as many as the "
            "workers need",
        ),
    ] = None
    idle_s: Annotated[
        int, Field(ge=1, description="seconds after which the autoscaler removes an idle pod")
    ] = 120
    retries: Annotated[
        int, Field(ge=0, description="attempts after the first; each resumes the run")
    ] = 3
    grace_s: Annotated[
        int,
        Field(ge=10, description="seconds that a pod gets to stop; the run commits its results"),
    ] = 120
    keep_s: Annotated[
        int, Field(ge=0, description="seconds until the pods of a finished job are removed")
    ] = 600
    deadline_s: Annotated[
        int | None, Field(ge=1, description="seconds until the job is ended, with all its attempts")
    ] = None

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
