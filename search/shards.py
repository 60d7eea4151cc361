"""Settings that spread a base model over ranks."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluators.config import Config

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
