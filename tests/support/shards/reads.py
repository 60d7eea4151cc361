"""Counters of what a rank reads of safetensors files, and of the tensors that it has at once."""

from collections import Counter
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers.modeling_utils
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kilobit.cluster.shards.checkpoint
from kilobit.cluster.shards.load import load_sharded
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.search.base_model import BaseModelConfig


class Held(TorchDispatchMode):
    """Peak of the bytes of all tensors in memory that were touched inside and are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in tree_leaves((args, kwargs, found)):
            if isinstance(one, torch.Tensor) and one.device.type == "cpu":
                storage = one.untyped_storage()
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {at: one for at, one in self._alive.items() if not one[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return found


class _Slice:
    def __init__(self, one: Any, key: str, reads: list[tuple[str, int]]) -> None:
        self._one, self._key, self._reads = one, key, reads

    def __getitem__(self, box: Any) -> torch.Tensor:
        found: torch.Tensor = self._one[box]
        self._reads.append((self._key, found.nbytes))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._one, name)


class CountingReader:
    """A rank that counts while it loads its part of a base model."""

    def __init__(self, address: RankAddress, config: BaseModelConfig, shards: ShardsConfig) -> None:
        torch.set_num_threads(1)
        reads: list[tuple[str, int]] = []

        class Opened:
            def __init__(self, *args: Any, **options: Any) -> None:
                self._one = safetensors.safe_open(*args, **options)

            def get_slice(self, key: str) -> _Slice:
                return _Slice(self._one.get_slice(key), key, reads)

            def get_tensor(self, key: str) -> torch.Tensor:
                return self.get_slice(key)[...]

            def __enter__(self) -> "Opened":
                return self

            def __exit__(self, *_: object) -> None:
                return

            def __getattr__(self, name: str) -> Any:
                return getattr(self._one, name)

        for module in (kilobit.cluster.shards.checkpoint, transformers.modeling_utils):
            module.safe_open = Opened  # type: ignore[attr-defined]
        self._frozen = load_sharded(config, Path(), shards, address)
        self._reads = reads

    def digest(self) -> str:
        return self._frozen.digest

    def bytes_read(self) -> dict[str, int]:
        """Return the bytes that were read of each stored tensor."""
        total: Counter[str] = Counter()
        for key, size in self._reads:
            total[key] += size
        return dict(total)

    def largest_read(self, kind: str) -> int:
        """Return the bytes of the largest slice of the stored tensors with `kind` in their name."""
        return max(size for key, size in self._reads if kind in key)
