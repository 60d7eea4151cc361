"""How a sweep file says who computes."""

from typing import Annotated

from pydantic import Field

from evaluators.config import Config
from search.shards import ShardsConfig


class Workers(Config):
    """How many workers hold each base model, and what each may use."""

    per_model: Annotated[
        int, Field(ge=1, description="workers for each base model; each loads it once")
    ] = 1
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

    @property
    def places(self) -> int:
        """Return how many candidates are with a worker at once."""
        return self.pack if self.pack is not None else 8 if self.gpus else 1
