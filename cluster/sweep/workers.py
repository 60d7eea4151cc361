"""Settings of the workers: how many, on what, and the ranks that hold one base model."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kilobit.search.settings import Config

Layout = Literal["one", "tensor", "zero3"]


class OffloadConfig(Config):
    """Storage of a rank's part of the weights under ZeRO-3 while it is not in use."""

    device: Annotated[
        Literal["cpu", "nvme"], Field(description="main memory, or a file on a local drive")
    ] = "cpu"
    nvme_path: Annotated[Path | None, Field(description="folder on the drive, for `nvme`")] = None
    pin_memory: Annotated[
        bool, Field(description="page-locked memory: faster copies to a GPU, never swapped")
    ] = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.device == "nvme") != (self.nvme_path is not None):
            raise ValueError("`nvme_path` belongs to device `nvme`, which needs it")
        return self


class ShardsConfig(Config):
    """The ranks of one resident base model."""

    world_size: Annotated[int, Field(ge=1, description="ranks that share one copy")] = 1
    layout: Annotated[
        Literal["auto", "one", "tensor", "zero3"],
        Field(
            description="`one`: not spread; `tensor`: each rank computes a part of every layer; "
            "`zero3`: each rank keeps a part and gathers a layer when it needs it; `auto`: `one` "
            "on one rank, `tensor` where the architecture has a plan that fits, else `zero3`"
        ),
    ] = "auto"
    offload: Annotated[OffloadConfig | None, Field(description="only with `zero3`")] = None
    cpus_per_rank: Annotated[
        float | None,
        Field(ge=0, description="CPUs that each rank reserves; as `workers.cpus` by default"),
    ] = None
    gpus_per_rank: Annotated[
        float | None,
        Field(ge=0, description="GPUs that each rank reserves; as `workers.gpus` by default"),
    ] = None
    memory_gib: Annotated[
        float | None,
        Field(gt=0, description="memory of a rank's device, for the plan; its own by default"),
    ] = None
    timeout_s: Annotated[
        float,
        Field(gt=0, description="longest wait of a rank for other ranks before the group fails"),
    ] = 600.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.layout == "one" and self.world_size > 1:
            raise ValueError(f"layout `one` has one rank, but `world_size` is {self.world_size}")
        if self.layout == "tensor" and self.world_size == 1:
            raise ValueError("layout `tensor` needs a `world_size` of at least 2")
        if self.offload is not None and self.layout not in ("auto", "zero3"):
            raise ValueError(f"layout `{self.layout}` has no `offload`; use `zero3`")
        return self

    @property
    def are_split(self) -> bool:
        """Return whether no rank keeps a whole model, so that candidates have to share passes."""
        return self.world_size > 1 or self.layout == "zero3" or self.offload is not None


class Workers(Config):
    """The number of workers for each base model, and the resources of each."""

    per_model: Annotated[
        int, Field(ge=1, description="workers for each base model at most; each loads it once")
    ] = 1
    min_per_model: Annotated[
        int | None,
        Field(
            ge=1,
            description="workers of each base model with which the search begins; it uses the "
            "others once their nodes are there; all of them by default",
        ),
    ] = None
    wait_s: Annotated[
        float,
        Field(
            ge=0,
            description="seconds that a search on a cluster waits at its beginning for enough free "
            "resources for its workers",
        ),
    ] = 600.0
    threads: Annotated[int, Field(ge=1, le=1024, description="threads of a worker")] = 1
    cpus: Annotated[
        float | None, Field(gt=0, description="CPUs reserved for a worker; default: an even share")
    ] = None
    gpus: Annotated[float, Field(ge=0, description="GPUs reserved for a worker")] = 0
    batch_size: Annotated[
        int, Field(ge=1, description="most examples generated together; see `rungs.examples`")
    ] = 64
    pack: Annotated[
        int | None,
        Field(
            ge=1,
            le=256,
            description="candidates that a worker trains and scores in the same passes; each needs "
            "a small process. By default 8 where workers have GPUs; on CPUs 1, because larger "
            "passes are hardly faster there",
        ),
    ] = None
    shards: Annotated[
        ShardsConfig, Field(description="the ranks that hold one copy of a base model together")
    ] = ShardsConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_per_model is not None and self.min_per_model > self.per_model:
            raise ValueError(
                f"min_per_model {self.min_per_model} is more than per_model {self.per_model}"
            )
        return self

    @property
    def least(self) -> int:
        """Return the number of workers of each base model that a search needs to begin."""
        return self.per_model if self.min_per_model is None else self.min_per_model

    @property
    def slots(self) -> int:
        """Return the slots of a worker: the number of candidates that it runs at once."""
        return self.pack if self.pack is not None else 8 if self.gpus else 1
