"""Settings of the workers of a sweep."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from evaluators.config import Config
from search.shards import ShardsConfig


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
    def places(self) -> int:
        """Return the slots of a worker: the number of candidates that it runs at once."""
        return self.pack if self.pack is not None else 8 if self.gpus else 1
