"""Load a base model on the ranks of a group, each rank its own part."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from kilobit.cluster.shards import tensor_parallel, zero3
from kilobit.cluster.shards.checkpoint import Checkpoint
from kilobit.cluster.shards.process_group import RankAddress, backend_of, join, listen
from kilobit.cluster.shards.skeleton import draw, registered
from kilobit.cluster.sweep.workers import Layout, ShardsConfig
from kilobit.evaluators.cpus_and_memory import missing_instructions
from kilobit.evaluators.model import base_model
from kilobit.evaluators.model.base_model import FrozenModel, Shard
from kilobit.evaluators.model.machine import Digest
from kilobit.search.base_model import BaseModelConfig

_LOG = logging.getLogger("kilobit")
# Types as safetensors names them.
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


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


def slowness(config: BaseModelConfig) -> str | None:
    """Return a warning if the processor here computes slowly in the type of a base model."""
    on_cpu = config.device in ("cpu", "auto") and device_of(config) == "cpu"
    missing = missing_instructions(config.dtype) if on_cpu else ()
    if not missing:
        return None
    return (
        f"{config.label}: this processor has no instructions for {config.dtype} "
        f"({', '.join(missing)}), so passes take several times as long as in float32; use "
        "`dtype: float32` if the memory allows"
    )


def layout_of(config: BaseModelConfig, folder: Path, shards: ShardsConfig) -> Layout:
    """Return the layout of a base model: the configured one, or the choice of `auto`.

    Raises:
        OSError, ValueError: if the model can't be read, or does not support the configured layout.
    """
    zero3.check_offload(shards.offload)
    if shards.are_split and config.quantization is not None:
        raise ValueError(
            f"quantization {config.quantization} of {config.label} needs a model that is whole on "
            f"one rank: world_size is {shards.world_size}, layout {shards.layout}"
            f"{', with offload' if shards.offload else ''}; use world_size 1 without offload"
        )
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

    The ranks have joined a process group before; one rank needs none. Each rank reads its part of
    trained weights, and no rank holds more of them than a whole tensor at a time; experts that are
    stored one by one are read one by one. Random weights are drawn by every rank, tensor after
    tensor as in a single process, and each keeps its part. With `zero3`, transformers has rank 0
    read all weights and distribute them where it computes one from what is stored.

    Raises:
        OSError, ValueError: if the model can't be loaded, or does not support the layout.
    """
    layout = layout_of(config, folder, shards)
    slow = slowness(config)
    if slow is not None and address.rank == 0:
        _LOG.warning(slow)
    if layout == "one":
        return base_model.load(config, folder)
    base_model.quiet()
    began = time.monotonic()
    device = device_of(config)
    dtype = getattr(torch, config.dtype)
    shard: Shard
    if layout == "tensor":
        splits = tensor_parallel.splits_of(outline(config, folder), address.world_size)
        model = _load_tensor(config, folder, dtype, address)
        shard = tensor_parallel.TensorParallelShard(splits)
    else:
        if not dist.is_initialized():
            listener = listen("127.0.0.1")
            alone = RankAddress(port=listener.getsockname()[1])
            join(alone, device, shards.timeout_s, listener)
        zero3.join_deepspeed(backend_of(device), shards.timeout_s)
        model = _load_zero3(config, folder, dtype, shards)
        shard = zero3.Zero3Shard()
    digest = _digest(model, layout, shard)
    return base_model.describe(model, config, folder, digest, began, shard)


def _load_tensor(
    config: BaseModelConfig, folder: Path, dtype: torch.dtype, address: RankAddress
) -> Any:
    from transformers.distributed.configuration_utils import DistributedConfig

    spread = DistributedConfig(tp_size=address.world_size)
    source, options = base_model.source(config, folder)
    if config.weights == "trained":
        model = base_model.read_weights(source, options, dtype=dtype, distributed_config=spread)
        return model.eval().requires_grad_(False)
    names, bare = registered(config, folder, dtype)
    with _zeros(bare, address) as scratch:
        options = {"trust_remote_code": False}
        model = base_model.read_weights(scratch, options, dtype=dtype, distributed_config=spread)
    parameters = dict(model.named_parameters())

    def keep(name: str, whole: Tensor) -> Tensor:
        return tensor_parallel.part_like(parameters[name], whole)

    _, drawn = draw(config, folder, dtype, names, keep)
    for name, part in drawn.items():
        local = parameters[name]
        (local.to_local() if hasattr(local, "to_local") else local).data.copy_(part)
    return model.eval().requires_grad_(False)


@contextmanager
def _zeros(bare: Any, address: RankAddress) -> Iterator[str]:
    """Yield a folder with a checkpoint of zeros that takes no room, for a model without weights.

    From it transformers lays the model out over ranks.
    """
    # The same on every node, so nodes need no common file system.
    name = f"kilobit-random-{address.host}-{address.port}".replace(":", "_")
    scratch = Path(tempfile.gettempdir()) / name
    if address.local_rank == 0:
        scratch.mkdir(mode=0o700)
        bare.config.save_pretrained(scratch)
        header, end = {}, 0
        for key, weight in bare.state_dict().items():
            begin, end = end, end + weight.numel() * weight.element_size()
            about = {"dtype": _NAMES[weight.dtype], "shape": list(weight.shape)}
            header[key] = {**about, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (scratch / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    _barrier()
    try:
        yield str(scratch)
        _barrier()
    finally:
        if address.local_rank == 0:
            shutil.rmtree(scratch)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def _load_zero3(
    config: BaseModelConfig, folder: Path, dtype: torch.dtype, shards: ShardsConfig
) -> Any:
    names, model = registered(config, folder, dtype)
    if config.weights == "random":

        def keep(_: str, whole: Tensor) -> Tensor:
            return whole.view(-1)[slice(*zero3.own_part(whole.numel()))].clone()

        model, drawn = draw(config, folder, dtype, names, keep)
        zero3.partition(model, shards.offload, lambda name, *_: drawn.pop(name))
    else:
        source, options = base_model.source(config, folder)
        generation = base_model.check_source(source, options)
        checkpoint = Checkpoint.of(model, source, options)
        if checkpoint is None:
            _LOG.warning("%s: rank 0 reads all weights and distributes them", config.label)
            with zero3.partitioned_loading(dtype, shards.offload):
                model = base_model.read_weights(source, options, dtype=dtype)
        else:
            model.generation_config = generation
            checkpoint.fill_buffers(model)
            zero3.partition(model, shards.offload, checkpoint.part)
            _LOG.info("%s: read %.3f GB", config.label, checkpoint.bytes_read / 1e9)
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
