"""Tensor parallelism: every rank computes a part of every layer, by the plan of transformers.

The plan splits the output of some linear layers ("column") and the input of others ("row") over the
ranks; everything between is whole and equal on all ranks. The code of transformers sums the
gradient of a column layer's input and the output of a row layer. This module does the same for
adapters beside those layers:

- column, h = x down': whole and equal on all ranks. The gradient of h comes from this rank's
  outputs only, so it is summed, which makes the gradients of `down` and of x whole.
- row, h = sum over ranks of x_r down_r': summed on the way forward. Its output is whole, so the
  gradient of h is whole on all ranks already and must not be summed again.
- a slice of a factor gives a gradient for the slice; zeros around it and a sum make it whole.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import distribute_tensor

from kilobit.cluster.shards.skeleton import skeleton
from kilobit.evaluators.model.base_model import FrozenModel, plain_low_rank
from kilobit.search.adapter_methods import AdapterSpec

Split = Literal["column", "row", "heads"]

# Split of a module by each style of a plan; None where the module stays whole.
_STYLES: Mapping[str, Split | None] = {
    "colwise": "column",
    "rowwise": "row",
    # A norm within a head: its weight is whole, its input is this rank's heads.
    "replicated_with_grad_allreduce": "heads",
    "colwise_gather_output": None,
    "rowwise_split_input": None,
    "colwise_rep": None,
    "embedding_rowwise": None,
    "embedding_colwise": None,
    "replicate": None,
    # Experts, whose weights are split; what goes in and what comes out is whole.
    "moe_tp_experts": None,
}
# Styles of weights that are no module's own, such as those of experts: the dimension that is split,
# counted from the last, and the number of weights that lie one after the other in it.
_WEIGHTS: Mapping[str, tuple[int, int]] = {
    "colwise": (-2, 1),
    "rowwise": (-1, 1),
    "packed_colwise": (-2, 2),
    "packed_rowwise": (-1, 2),
}


class _SumGradients(torch.autograd.Function):
    """Identity forward; sum of the gradient over ranks backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


class _Sum(torch.autograd.Function):
    """Sum over ranks forward; identity backward, for a gradient that is equal on all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Part(torch.autograd.Function):
    """This rank's slice forward; the joined gradients of all slices backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        size = x.shape[dim] // dist.get_world_size()
        ctx.dim, ctx.shape, ctx.first = dim, x.shape, dist.get_rank() * size
        return x.narrow(dim, ctx.first, size).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.new_zeros(ctx.shape)
        whole.narrow(ctx.dim, ctx.first, gradient.shape[ctx.dim]).copy_(gradient)
        dist.all_reduce(whole)
        return whole, None


def _part(x: Tensor, dim: int) -> Tensor:
    part: Tensor = _Part.apply(x, dim)  # type: ignore[no-untyped-call]
    return part


def _sum_gradients(x: Tensor) -> Tensor:
    same: Tensor = _SumGradients.apply(x)  # type: ignore[no-untyped-call]
    return same


class TensorParallelShard:
    """A rank of a model that transformers split by its plan; see the module's docstring."""

    splits_rows = False

    def __init__(self, splits: Mapping[str, Split]) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._splits = splits

    def low_rank(self, name: str, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """See `Shard.low_rank`."""
        split = self._splits.get(name)
        if split == "column":
            hidden = _sum_gradients(x.to(down.dtype) @ down.mT)
            return hidden @ _part(up, 1).mT
        if split == "row":
            summed: Tensor = _Sum.apply(x.to(down.dtype) @ _part(down, 2).mT)  # type: ignore[no-untyped-call]
            return summed @ up.mT
        return plain_low_rank(x, down, up)

    def part_of_output(self, name: str, factors: Tensor) -> Tensor:
        """See `Shard.part_of_output`."""
        split = self._splits.get(name)
        if split == "column":
            return _part(factors, factors.ndim - 1)
        return _sum_gradients(factors) if split == "heads" else factors

    def skeleton(
        self, frozen: FrozenModel, spec: AdapterSpec
    ) -> AbstractContextManager[FrozenModel]:
        """See `Shard.skeleton`."""
        return skeleton(frozen, spec, lambda weight: whole(weight).detach().clone())

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """Do nothing: every rank has seen all rows, and `backward` left whole gradients."""

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Shard.sum`."""
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total


def splits_of(model: Any, world_size: int) -> dict[str, Split]:
    """Return the split of each module by the model's plan; it may be on the meta device.

    Raises:
        ValueError: if the model has no plan, or one that does not fit this number of ranks.
    """
    kind, plan = type(model).__name__, dict(model.tp_plan or {})
    if not model.supports_tp_plan or not plan:
        raise ValueError(f"{kind} has no tensor parallel plan; use layout `zero3`")
    if not any("*" in pattern for pattern in plan):
        raise ValueError(f"the tensor parallel plan of {kind} splits no layer; use layout `zero3`")
    _check_plan(model, plan, world_size)
    config = model.config.get_text_config()
    for field in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, field, None)
        if heads is not None and heads % world_size:
            raise ValueError(f"{field} = {heads} of {kind} can't be split over {world_size} ranks")
    splits: dict[str, Split] = {}
    for name, module in model.named_modules():
        split = _STYLES.get(plan.get(_pattern(name), "replicate"))
        if split is None:
            continue
        splits[name] = split
        if split == "heads":
            continue
        size = module.out_features if split == "column" else module.in_features
        if size % world_size:
            raise ValueError(f"size {size} of {name} can't be split over {world_size} ranks")
    return splits


def _check_plan(model: Any, plan: Mapping[str, str], world_size: int) -> None:
    """Check that all styles of a plan are known, and that weights with a style can be split."""
    kind = type(model).__name__
    weights = {_pattern(name): weight for name, weight in model.named_parameters()}
    unknown = sorted(
        {
            style
            for pattern, style in plan.items()
            if style not in (_WEIGHTS if pattern in weights else _STYLES)
        }
    )
    if unknown:
        raise ValueError(
            f"the tensor parallel plan of {kind} has unknown styles {unknown}; use layout `zero3`"
        )
    for pattern in plan.keys() & weights.keys():
        dim, packed = _WEIGHTS[plan[pattern]]
        shape = weights[pattern].shape
        size = shape[max(dim, -len(shape))] // packed
        if size % world_size:
            raise ValueError(f"size {size} of {pattern} can't be split over {world_size} ranks")


def _pattern(name: str) -> str:
    """Return a name with a star for the number of each layer, as plans have it."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def whole(tensor: Tensor) -> Tensor:
    """Return a whole parameter or buffer; all ranks have to call this."""
    if hasattr(tensor, "full_tensor"):
        full: Tensor = tensor.full_tensor()
        return full
    return tensor


def part_like(parameter: Any, whole: Tensor) -> Tensor:
    """Return the part of a whole tensor that this rank has of a parameter of the same shape."""
    if not hasattr(parameter, "placements"):
        return whole.clone()
    mesh, placements = parameter.device_mesh, parameter.placements
    own: Any = distribute_tensor(whole.to(mesh.device_type), mesh, placements, src_data_rank=None)
    part: Tensor = own.to_local()
    return part.clone()
