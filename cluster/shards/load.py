"""Load a base model on the ranks of a group, each rank its own part."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from kilobit.cluster.shards import tensor_parallel, zero3
from kilobit.cluster.shards.process_group import RankAddress, backend_of, join, listen
from kilobit.cluster.sweep.workers import Layout, ShardsConfig
from kilobit.evaluators.model import base_model
from kilobit.evaluators.model.base_model import FrozenModel, Shard
from kilobit.evaluators.model.machine import Digest
from kilobit.search.base_model import BaseModelConfig


def device_of(config: BaseModelConfig) -> str:
    """Return the kind of device that a rank uses: cpu or cuda.

    Raises:
        ValueError: if a single GPU is named; ranks have one each.
    """
    if ":" in config.device:
        raise ValueError(f"device {config.device} is one GPU, but each rank has its own: use cuda")
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def layout_of(config: BaseModelConfig, folder: Path, shards: ShardsConfig) -> Layout:
    """Return the layout of a base model: the configured one, or the choice of `auto`.

    Raises:
        OSError, ValueError: if the model can't be read, or does not support the configured layout.
    """
    zero3.check_offload(shards.offload)
    if shards.layout in ("one", "zero3"):
        return shards.layout
    if shards.world_size == 1:
        return "one" if shards.offload is None else "zero3"
    if shards.offload is not None:
        return "zero3"
    try:
        tensor_parallel.splits_of(outline(config, folder), shards.world_size)
        if device_of(config) == "cpu" and torch.cuda.is_available():
            raise ValueError(
                "layout `tensor` uses the GPUs of a machine that has some: to run on its CPUs, "
                "hide the GPUs"
            )
    except ValueError:
        if shards.layout == "tensor":
            raise
        return "zero3"
    return "tensor"


def outline(config: BaseModelConfig, folder: Path) -> Any:
    """Return the model's skeleton, on the meta device."""
    model_id, options = base_model.source(config, folder)
    model_config = AutoConfig.from_pretrained(model_id, **options)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config)


def load_sharded(
    config: BaseModelConfig, folder: Path, shards: ShardsConfig, address: RankAddress
) -> FrozenModel:
    """Load this rank's part of a base model; all ranks have to call this.

    The ranks have joined a process group before; one rank needs none. With `tensor` each rank reads
    its part of trained weights. With `zero3` transformers has rank 0 read all weights into main
    memory and distribute them; the other ranks never hold all of them. Random weights are drawn
    whole, in the main memory of one rank of every node, and read from a temporary folder there, so
    that they are those of a single process.

    Raises:
        OSError, ValueError: if the model can't be loaded, or does not support the layout.
    """
    layout = layout_of(config, folder, shards)
    if layout == "one":
        return base_model.load(config, folder)
    base_model.quiet()
    began = time.monotonic()
    device = device_of(config)
    dtype = getattr(torch, config.dtype)
    shard: Shard
    with _weights(config, folder, address) as (source, options):
        if layout == "tensor":
            splits = tensor_parallel.splits_of(outline(config, folder), address.world_size)
            model = _load_tensor(source, dtype, address.world_size, options)
            shard = tensor_parallel.TensorParallelShard(splits)
        else:
            if not dist.is_initialized():
                listener = listen("127.0.0.1")
                alone = RankAddress(port=listener.getsockname()[1])
                join(alone, device, shards.timeout_s, listener)
            zero3.join_deepspeed(backend_of(device), shards.timeout_s)
            model = _load_zero3(source, dtype, shards, options)
            shard = zero3.Zero3Shard()
    digest = _digest(model, layout, shard)
    return base_model.describe(model, config, folder, digest, began, shard)


@contextmanager
def _weights(
    config: BaseModelConfig, folder: Path, address: RankAddress
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield source and options for `from_pretrained`; one rank per node writes random weights."""
    source, options = base_model.source(config, folder)
    if config.weights == "trained":
        yield source, options
        return
    # The same seed on every node gives the same numbers, so nodes need no common file system.
    name = f"kilobit-random-{address.host}-{address.port}".replace(":", "_")
    scratch = Path(tempfile.gettempdir()) / name
    if address.local_rank == 0:
        scratch.mkdir(mode=0o700)
        base_model.random_model(config, folder).save_pretrained(scratch)
    _barrier()
    try:
        yield str(scratch), {"trust_remote_code": False}
        _barrier()
    finally:
        if address.local_rank == 0:
            for file in scratch.iterdir():
                file.unlink()
            scratch.rmdir()


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def _load_tensor(source: str, dtype: torch.dtype, world_size: int, options: dict[str, Any]) -> Any:
    from transformers.distributed.configuration_utils import DistributedConfig

    spread = DistributedConfig(tp_size=world_size)
    model = base_model.read_weights(source, options, dtype=dtype, distributed_config=spread)
    return model.eval().requires_grad_(False)


def _load_zero3(
    source: str, dtype: torch.dtype, shards: ShardsConfig, options: dict[str, Any]
) -> Any:
    with zero3.partitioned_loading(dtype, shards.offload):
        model = base_model.read_weights(source, options, dtype=dtype)
    model.eval().requires_grad_(False)
    # The engine's hooks are on the model; the model keeps the engine alive.
    object.__setattr__(model, "_zero3_engine", zero3.engine_of(model, shards.offload))
    return model


def _digest(model: Any, layout: Layout, shard: Shard) -> str:
    """Return the digest of the whole model, with one whole tensor in memory at a time."""
    digest = Digest()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if layout == "tensor":
            whole = tensor_parallel.whole(tensor)
            if shard.rank == 0:
                digest.add(name, whole)
            continue
        with zero3.gathered(tensor) as whole:
            if shard.rank == 0:
                digest.add(name, whole)
    # Broadcast rank 0's bytes as a sum: the other ranks add zeros.
    content = bytes.fromhex(digest.hex()) if shard.rank == 0 else bytes(8)
    numbers = torch.tensor(list(content), dtype=torch.int64, device=model.device)
    return bytes(shard.sum(numbers).tolist()).hex()
