"""What a change to a module's output has to know about where the module lies."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Shard(Protocol):
    """The part of a base model that is on this rank.

    Attributes:
        rank: of this process in its group.
        world_size: ranks in the group.
        splits_rows: in training every rank takes its own part of the rows; otherwise all see all.
    """

    rank: int
    world_size: int
    splits_rows: bool

    def low_rank(
        self, name: str, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor
    ) -> torch.Tensor:
        """Return what is added to this rank's part of the output of module `name`.

        Args:
            name: of the module in the base model.
            x: the module's input as its forward hook sees it, shape [rows, tokens, in].
            down: first factors, whole, shape [rows, rank, in].
            up: second factors, whole, shape [rows, out, rank].
        """
        ...

    def part_of_output(self, name: str, factors: torch.Tensor) -> torch.Tensor:
        """Return of `factors`, shape [rows, out], what belongs to this rank's part of an output."""
        ...

    def sum_gradients(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sum gradients over the ranks where each has seen only its part of the rows."""
        ...

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return `values` summed over the ranks where each has seen only its part of the rows."""
        ...


class Alone:
    """One rank that holds the whole model."""

    rank = 0
    world_size = 1
    splits_rows = False

    def low_rank(
        self, name: str, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor
    ) -> torch.Tensor:
        """Return `up down x` for each row."""
        return (x @ down.mT) @ up.mT

    def part_of_output(self, name: str, factors: torch.Tensor) -> torch.Tensor:
        """Return all of it."""
        return factors

    def sum_gradients(self, tensors: Sequence[torch.Tensor]) -> None:
        """Leave them as they are."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values as they are."""
        return values


ALONE = Alone()
