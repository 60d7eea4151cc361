"""Interface between an adapter's hooks and a base model that may be spread over ranks.

A hook on a module of the base model sees its rank's part: the whole input and output, or a part of
one of them. It passes whole factors to `low_rank` or `part_of_output` and gets the update of the
output that it sees. After `backward` and `sum_gradients` every rank has the same, whole gradient of
the factors.

This module implements a single process only and imports neither torch.distributed nor DeepSpeed.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Shard(Protocol):
    """One rank's view of a resident base model.

    All ranks have to make the same calls in the same order, those that follow from `backward`
    included; otherwise the ranks wait for one another until their process group's timeout.

    Attributes:
        rank: from 0 to world_size - 1.
        world_size: number of ranks.
        splits_rows: in training every rank takes its own rows of a batch (at least one), and losses
            and gradients are summed; otherwise all ranks see the same rows. In generation all ranks
            always see the same rows.
    """

    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def world_size(self) -> int: ...  # noqa: D102
    @property
    def splits_rows(self) -> bool: ...  # noqa: D102

    def low_rank(self, name: str, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """Return this rank's part of the update `x @ down.mT @ up.mT` of a module's output.

        Args:
            name: the module's name in `named_modules` of the model.
            x: its input as a forward hook sees it, [rows, tokens, in] or this rank's part of `in`.
            down: [rows, rank, in], whole and the same on all ranks.
            up: [rows, out, rank], whole and the same on all ranks.

        Returns:
            [rows, tokens, out] or this rank's part of `out`, in the type of the factors.
        """
        ...

    def part_of_output(self, name: str, factors: Tensor) -> Tensor:
        """Return the part of `factors` [..., out] that belongs to this rank's output of `name`."""
        ...

    def part_of_input(self, name: str, factors: Tensor) -> Tensor:
        """Return the part of `factors` [..., in] that belongs to this rank's input of `name`."""
        ...

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """Sum `.grad` of the tensors over ranks if `splits_rows`; a missing one counts as zeros."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a small tensor over all ranks; it carries no gradient."""
        ...


def plain_low_rank(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return `x @ down.mT @ up.mT` in the type of the factors; shapes as in `Shard.low_rank`."""
    return x.to(down.dtype) @ down.mT @ up.mT


class _Alone:
    """View of a base model that is whole in this process."""

    rank, world_size, splits_rows = 0, 1, False

    def low_rank(self, name: str, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return plain_low_rank(x, down, up)

    def part_of_output(self, name: str, factors: Tensor) -> Tensor:
        return factors

    def part_of_input(self, name: str, factors: Tensor) -> Tensor:
        return factors

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        return

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.detach()


ALONE: Shard = _Alone()
