"""Settings of the workers: how many, on what, and the ranks that hold one base model."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kilobit.search.base_model import BaseModelConfig
from kilobit.search.settings import Config

Layout = Literal["one", "tensor", "zero3"]


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("a share of one GPU below 1, or a whole number of GPUs, can be reserved")
    return gpus


def _custom(name: str) -> str:
    if name in ("CPU", "GPU", "memory", "object_store_memory"):
        raise ValueError("`cpus` and `gpus` reserve these; name custom resources here")
    return name


Gpus = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]
# Ray has more operators for labels; a plan has to read them.
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]
Resources = dict[Annotated[str, AfterValidator(_custom)], Annotated[float, Field(gt=0)]]


class OffloadConfig(Config):
    """Storage of a rank's part of the weights under ZeRO-3 while it is not in use."""

    device: Literal["cpu", "nvme"] = "cpu"
    """main memory, or a file on a local drive"""
    nvme_path: Path | None = None
    """folder on the drive, for `nvme`"""
    pin_memory: bool = False
    """page-locked memory: faster copies to a GPU, never swapped"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.device == "nvme") != (self.nvme_path is not None):
            raise ValueError("`nvme_path` belongs to device `nvme`, which needs it")
        return self


class ShardsConfig(Config):
    """The ranks of one resident base model."""

    world_size: int = Field(default=1, ge=1)
    """ranks that share one copy"""
    layout: Literal["auto", "one", "tensor", "zero3"] = "auto"
    """`one`: not spread; `tensor`: each rank computes a part of every layer; `zero3`: each rank
    keeps a part and gathers a layer when it needs it; `auto`: `one` on one rank, `tensor` where the
    architecture has a plan that fits, else `zero3`"""
    offload: OffloadConfig | None = None
    """only with `zero3`"""
    cpus_per_rank: float | None = Field(default=None, ge=0)
    """CPUs that each rank reserves; as `workers.cpus` by default"""
    gpus_per_rank: Gpus | None = None
    """GPUs that each rank reserves; as `workers.gpus` by default"""
    memory_gib: float | None = Field(default=None, gt=0)
    """memory of a rank's device, for the plan; its own by default"""
    timeout_s: float = Field(default=600.0, gt=0)
    """longest wait of a rank for other ranks before the group fails"""

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

    per_model: int = Field(default=1, ge=1)
    """workers for each base model at most; each loads it once"""
    min_per_model: int | None = Field(default=None, ge=1)
    """workers of each base model with which the search begins; it uses the others once their nodes
    are there; all of them by default"""
    wait_s: float = Field(default=600.0, ge=0)
    """seconds that a search on a cluster waits at its beginning for enough free resources for its
    workers"""
    silent_s: float = Field(default=60.0, ge=1)
    """seconds after which a worker that has its model and whose process stands still is killed and
    started again; a process that computes does not stand still, however long it takes"""
    threads: int = Field(default=1, ge=1, le=1024)
    """threads of a worker"""
    cpus: float | None = Field(default=None, gt=0)
    """CPUs reserved for a worker; default: an even share"""
    gpus: Gpus = 0
    """GPUs reserved for a worker: a share of one, or a whole number"""
    accelerator_type: str | None = Field(default=None, min_length=1)
    """kind of GPU of a worker's nodes, by Ray's name for it: H100, A100, ..."""
    resources: Resources = Field(default={})
    """custom resources of Ray's nodes that each rank reserves, by name"""
    node_labels: dict[str, Label] = Field(default={})
    """labels that a worker's nodes have, as given to `ray start --labels`"""
    batch_size: int = Field(default=64, ge=1)
    """most examples generated together; see `rungs.examples` and `program_batch_size`"""
    pack: int | None = Field(default=None, ge=1, le=256)
    """candidates that a worker trains and scores in the same passes; each needs a small process. By
    default 8 where workers have GPUs; on CPUs 1, because larger passes are hardly faster there"""
    shards: ShardsConfig = ShardsConfig()
    """the ranks that hold one copy of a base model together"""

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

    @property
    def wanted_cpus(self) -> float:
        """Return the CPUs that each rank of a worker reserves on a cluster that may grow."""
        return float(self.threads) if self.cpus is None else self.cpus

    def ranks(self, cpus: float) -> ShardsConfig:
        """Return the ranks of a worker with the CPUs and GPUs of each; `cpus` is the default."""
        shards = self.shards
        cpus = cpus if shards.cpus_per_rank is None else shards.cpus_per_rank
        gpus = self.gpus if shards.gpus_per_rank is None else shards.gpus_per_rank
        return shards.model_copy(update={"cpus_per_rank": cpus, "gpus_per_rank": gpus})

    def over(self, own: "ModelWorkers | None") -> "Workers":
        """Return these settings with those of one base model over them."""
        given = {
            n: v for n in ModelWorkers.model_fields if (v := getattr(own, n, None)) is not None
        }
        if "per_model" in given and self.min_per_model is not None:
            # What holds for all models can't ask for more workers than this one has.
            given.setdefault("min_per_model", min(self.min_per_model, given["per_model"]))
        return self.model_copy(update=given)


class ModelWorkers(Config):
    """The workers of one base model, where they differ from `workers`; null: as there."""

    per_model: int | None = Field(default=None, ge=1)
    """its workers at most"""
    min_per_model: int | None = Field(default=None, ge=1)
    """its workers with which it begins"""
    cpus: float | None = Field(default=None, gt=0)
    """CPUs reserved for a worker"""
    gpus: Gpus | None = None
    """GPUs reserved for a worker: a share of one, or a whole number"""
    accelerator_type: str | None = Field(default=None, min_length=1)
    """kind of GPU of its nodes"""
    resources: Resources | None = None
    """custom resources that each rank reserves"""
    node_labels: dict[str, Label] | None = None
    """labels of its nodes"""
    pack: int | None = Field(default=None, ge=1, le=256)
    """candidates in the same passes"""
    shards: ShardsConfig | None = None
    """the ranks that hold a copy together; replaces `workers.shards`"""


class SearchedModel(BaseModelConfig):
    """A base model that is searched, and its workers."""

    workers: ModelWorkers | None = None
    """settings of its workers that differ from `workers`"""
