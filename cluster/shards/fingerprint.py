"""A cheap check that a rank's part of the base weights did not change.

A fingerprint is a sum of integers modulo 2^64: every element, read as an integer, times an odd
number that depends on its position. Any change of one element changes it, as does a swap of two
neighbours that differ. It guards against accidents, not against deliberate tampering, and is
comparable only on the same rank of the same layout.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK = 1 << 22
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# An odd multiplier (Steele and Vigna 2021, table 6) spreads positions over all 64 bits.
_SPREAD = 0xD1342543DE82EF95
_WORD = 1 << 64


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def _tensor_print(tensor: Tensor) -> int:
    flat = tensor.detach().contiguous().reshape(-1)
    flat = flat.view(_INTEGERS[flat.element_size()])
    total = 0
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK].to(torch.int64)
        # 2 i + 1 is odd, and so is its product with an odd number: no change vanishes mod 2^64.
        places = torch.arange(start, start + part.numel(), device=part.device) * 2 + 1
        total += int((part * (places * _signed(_SPREAD))).sum())
    return total % _WORD


def local_tensors(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and this rank's part of each parameter and saved buffer, sorted by name."""
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if hasattr(tensor, "ds_tensor"):
            yield name, tensor.ds_tensor
        elif hasattr(tensor, "to_local"):
            yield name, tensor.to_local()
        else:
            yield name, tensor


def fingerprint(model: torch.nn.Module) -> int:
    """Return the fingerprint of this rank's part of `model`, without communication."""
    total = 0
    for _, tensor in local_tensors(model):
        total = (total * _SPREAD + _tensor_print(tensor)) % _WORD
    return total
