"""Rungs: the training steps and the scored examples of a candidate between decisions."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from kilobit.search.settings import Config


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder: at most `train_steps` steps, then the first `num_examples` examples.

    Both count from the candidate's start, not from the rung before.
    """

    index: int
    num_examples: int
    train_steps: int


class RungConfig(Config):
    """A geometric ladder: both numbers of the first rung grow by the factor `eta` per rung."""

    examples: Annotated[
        int, Field(ge=1, description="examples of the first rung, and of a batch")
    ] = 16
    train_steps: Annotated[int, Field(ge=1, description="optimizer steps of the first rung")] = 20
    eta: Annotated[int, Field(ge=2, le=10, description="factor from rung to rung")] = 3
    count: Annotated[int, Field(ge=1, le=12, description="number of rungs")] = 3

    def ladder(self) -> tuple[Rung, ...]:
        """Return the rungs, the smallest first."""
        return tuple(
            Rung(i, self.examples * self.eta**i, self.train_steps * self.eta**i)
            for i in range(self.count)
        )
