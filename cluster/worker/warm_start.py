"""Warm start: a new adapter begins from the trained numbers of another candidate's adapter.

A tensor of the same name is copied. Where the shapes differ, as those of another rank do, the
common leading part is copied and the rest keeps its initial values; so does a tensor that the other
adapter does not have. Optimizer moments and the number of steps are not copied: training begins at
its first step. A program holds only the result, so it does not depend on where its training began.

The numbers need not mean the same in the new adapter. In `lora` they do: a higher rank adds nothing
at first, a lower one drops components of the product. Methods around fixed random matrices
(`lora_fa`, `vera`, `tinylora`, `unilora`, `fourierft`) draw different matrices for another shape.
"""

import math

import torch
from safetensors.torch import load as load_tensors

from kilobit.evaluators.model.adapters import Adapter
from kilobit.evaluators.model.rate_training import LearnedBits, first_range

_PREFIX = "weight/"


@torch.no_grad()
def begin_from(adapter: Adapter, start: str, state: bytes | None) -> None:
    """Copy the numbers of a checkpoint, as `Adapter.state` wrote it, into an untrained adapter.

    Args:
        adapter: on the model, untrained.
        start: id of the candidate that the checkpoint belongs to, for messages.
        state: the checkpoint, None if that candidate has none.

    Raises:
        ValueError: if there is no checkpoint, or none of its tensors is in this adapter.
    """
    if state is None:
        raise ValueError(f"the adapter can't begin from {start}: it has no checkpoint in this run")
    saved = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in load_tensors(state).items()
        if name.startswith(_PREFIX)
    }
    if not saved.keys() & adapter.masters.keys():
        raise ValueError(
            f"the adapter can't begin from {start}: none of its tensors has a name of this adapter"
        )
    learned = {} if adapter.transform is None else adapter.transform.learned
    square = adapter.spec.traits.square
    for name, tensor in (adapter.masters | learned).items():
        if name in saved:
            _copy_leading(saved[name], tensor, square=square and name in adapter.masters)
    if isinstance(adapter.transform, LearnedBits):
        for name, tensor in adapter.masters.items():
            if f"range/{name}" not in saved:
                # The range was chosen for numbers that have just been replaced.
                learned[f"range/{name}"].fill_(first_range(tensor))


def _copy_leading(source: torch.Tensor, target: torch.Tensor, *, square: bool) -> None:
    """Copy the common leading part; `square`: the numbers are a flattened square matrix."""
    if square:
        source, target = (
            t.view(*t.shape[:-1], math.isqrt(t.shape[-1]), -1) for t in (source, target)
        )
    if source.dim() != target.dim():
        return
    common = tuple(slice(min(a, b)) for a, b in zip(source.shape, target.shape, strict=True))
    target[common] = source[common].to(target)
