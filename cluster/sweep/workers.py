"""Settings of the workers: how many, on what, and the ranks that hold one base model."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kilobit.search.settings import Config, InputError

Layout = Literal["one", "tensor", "zero3"]
# CPUs that a trial reserves; it only waits for messages.
TRIAL_CPUS = 0.01


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
    gpus_per_rank: float | None = Field(default=None, ge=0)
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
    threads: int = Field(default=1, ge=1, le=1024)
    """threads of a worker"""
    cpus: float | None = Field(default=None, gt=0)
    """CPUs reserved for a worker; default: an even share"""
    gpus: float = Field(default=0, ge=0)
    """GPUs reserved for a worker"""
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
        if self.cpus is not None:
            return self.cpus
        # Each slot of the worker has a trial that reserves CPUs too.
        return max(TRIAL_CPUS, self.threads - self.slots * TRIAL_CPUS)

    def cpus_here(self, num_models: int, cpus: float, gpus: float) -> float:
        """Return the CPUs that each rank of a worker reserves of those that are there.

        Raises:
            InputError: if the workers of so many base models do not fit on these CPUs and GPUs.
        """
        num_workers = self.per_model * num_models
        ranks = num_workers * self.shards.world_size
        what = f"{num_workers} workers" if ranks == num_workers else f"{ranks} ranks of workers"
        if self.gpus * ranks > gpus:
            raise InputError(
                f"workers.gpus: {what} with {self.gpus:g} GPUs each need {self.gpus * ranks:g}, "
                f"{gpus:g} are available"
            )
        room = cpus - num_workers * self.slots * TRIAL_CPUS
        if self.cpus is None:
            # Workers take turns on the cores where there are more workers than cores.
            share = int(1000 * room / ranks) / 1000
            if share <= 0:
                raise InputError(f"workers: {what} are too many for {cpus:g} CPUs")
            return min(float(self.threads), share)
        if self.cpus * ranks > room:
            raise InputError(
                f"workers.cpus: {what} with {self.cpus} CPUs each need {self.cpus * ranks:g} CPUs, "
                f"{room:g} are available"
            )
        return self.cpus

    def ranks(self, cpus: float) -> ShardsConfig:
        """Return the ranks of a worker with the CPUs and GPUs of each; `cpus` is the default."""
        shards = self.shards
        cpus = cpus if shards.cpus_per_rank is None else shards.cpus_per_rank
        gpus = self.gpus if shards.gpus_per_rank is None else shards.gpus_per_rank
        return shards.model_copy(update={"cpus_per_rank": cpus, "gpus_per_rank": gpus})
