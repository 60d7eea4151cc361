"""How a sweep file says who computes."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from evaluators.config import Config
from search.shards import ShardsConfig


class Workers(Config):
    """How many workers hold each base model, and what each may use."""

    per_model: Annotated[
        int, Field(ge=1, description="workers for each base model at most; each loads it once")
    ] = 1
    min_per_model: Annotated[
        int | None,
        Field(
            ge=1,
            description="the search begins with so many of them and uses the others as their nodes "
            "come; all of them by default",
        ),
    ] = None
    wait_s: Annotated[
        float,
        Field(
            ge=0,
            description="how long a search on a cluster waits at its beginning for nodes that have "
            "a place for its workers",
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
            description="candidates that a worker trains and scores in the same passes; each costs "
            "a small process. By default 8 where workers have GPUs; on CPUs 1, because their "
            "passes are hardly faster when they are larger",
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
        """Return how many workers of each base model a search needs to begin."""
        return self.per_model if self.min_per_model is None else self.min_per_model

    @property
    def places(self) -> int:
        """Return how many candidates are with a worker at once."""
        return self.pack if self.pack is not None else 8 if self.gpus else 1
