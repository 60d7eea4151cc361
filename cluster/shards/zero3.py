"""ZeRO stage 3: every rank keeps a part of every tensor and gathers a layer while it computes it.

The ranks train on different rows, and hooks see whole inputs and outputs. Each process has one
engine for its whole life. It has no optimizer: the base model is not trained, and adapters are
outside the engine. DeepSpeed then makes a `DeepSpeedZeRoOffload`, which hooks into the model to
gather a layer's weights in forward and again in backward wherever a gradient passes, so gradients
reach the adapters.

Source: ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), as implemented by DeepSpeed.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kilobit.cluster.shards.skeleton import skeleton
from kilobit.cluster.sweep.workers import OffloadConfig
from kilobit.evaluators.model.base_model import FrozenModel, plain_low_rank
from kilobit.search.adapter_methods import AdapterSpec


class Zero3Shard:
    """A rank of a model under ZeRO-3; see the module's docstring and `Shard`."""

    splits_rows = True

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def low_rank(self, name: str, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """See `Shard.low_rank`; inputs and outputs are whole."""
        return plain_low_rank(x, down, up)

    def part_of_output(self, name: str, factors: Tensor) -> Tensor:
        """Return the factors: outputs are whole."""
        return factors

    def skeleton(
        self, frozen: FrozenModel, spec: AdapterSpec
    ) -> AbstractContextManager[FrozenModel]:
        """See `Shard.skeleton`."""
        return skeleton(frozen, spec, _whole)

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """See `Shard.sum_gradients`; runs one all-reduce for all tensors of a type."""
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            same = [t for t in tensors if t.dtype == dtype]
            for tensor in same:
                if tensor.grad is None:
                    tensor.grad = torch.zeros_like(tensor)
            flat = torch.cat([t.grad.reshape(-1) for t in same if t.grad is not None])
            dist.all_reduce(flat)
            parts = torch.split(flat, [t.numel() for t in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.grad = part.view(tensor.shape).clone()

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Shard.sum`."""
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total


def _settings(offload: OffloadConfig | None) -> dict[str, Any]:
    """Return DeepSpeed's settings, without the weights' type."""
    zero: dict[str, Any] = {
        "stage": 3,
        # Nothing stays whole between two uses: by default small tensors, and all of a model below
        # 10^9 numbers, stay on every rank once they were gathered.
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
    }
    if offload is not None:
        offload_param: dict[str, Any] = {"device": offload.device, "pin_memory": offload.pin_memory}
        if offload.nvme_path is not None:
            offload_param["nvme_path"] = str(offload.nvme_path)
        zero["offload_param"] = offload_param
    return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}


def check_offload(offload: OffloadConfig | None) -> None:
    """Check that this machine supports the configured offload.

    Raises:
        ValueError: if DeepSpeed can't write to a drive here.
    """
    if offload is not None and offload.device == "nvme":
        from deepspeed.ops import __compatible_ops__ as compatible

        if not compatible.get("async_io"):
            raise ValueError(
                "offload to `nvme` needs libaio and its headers, for DeepSpeed's async_io"
            )


def join_deepspeed(backend: str, timeout_s: float) -> None:
    """Initialise DeepSpeed on the existing process group."""
    # Its shared-memory operation for CPUs is compiled on first use, which takes minutes.
    torch_comm: Any = importlib.import_module("deepspeed.comm.torch")
    torch_comm.build_shm_op = lambda: None
    import deepspeed

    deepspeed.init_distributed(
        dist_backend=backend,
        auto_mpi_discovery=False,
        timeout=timedelta(seconds=timeout_s),
        verbose=False,
    )


@contextmanager
def partitioned_loading(dtype: torch.dtype, offload: OffloadConfig | None) -> Iterator[None]:
    """Make `from_pretrained` spread every tensor over the ranks as soon as it is created."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    types = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    settings = _settings(offload)
    if dtype in types:
        settings[types[dtype]] = {"enabled": True}
    # transformers keeps only a weak reference to it.
    alive = HfDeepSpeedConfig(settings)
    try:
        yield
    finally:
        del alive


def own_part(number: int) -> tuple[int, int]:
    """Return which of so many numbers this rank keeps, from the first to before the last."""
    size = -(-number // dist.get_world_size())
    start = min(dist.get_rank() * size, number)
    return start, min(start + size, number)


def partition(
    model: torch.nn.Module, offload: OffloadConfig | None, part: Callable[[str, int, int], Tensor]
) -> None:
    """Spread a model without weights over the ranks; every rank makes its own part only.

    Args:
        model: its parameters are on the meta device.
        offload: where parts are kept.
        part: returns the numbers of a weight that this rank keeps, by the weight's name and their
            bounds.
    """
    import deepspeed

    init = deepspeed.zero.Init(config_dict_or_path=_settings(offload))
    made: dict[int, Any] = {}
    for name, weight in model.named_parameters():
        # Memory that is not written to is not taken.
        whole = torch.empty(weight.shape, dtype=weight.dtype, device=init.local_device)
        start, end = own_part(whole.numel())
        if start < end:
            whole.view(-1)[start:end] = part(name, start, end)
        made[id(weight)] = torch.nn.Parameter(whole, requires_grad=False)
        # Without the broadcast from rank 0 that DeepSpeed has here.
        init._convert_to_deepspeed_param(made[id(weight)])  # noqa: SLF001 - it has no other
        made[id(weight)].partition()
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, made[id(weight)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(init.local_device))


def engine_of(model: torch.nn.Module, offload: OffloadConfig | None) -> Any:
    """Put ZeRO-3's hooks on a partitioned model; return the engine, which has to stay alive."""
    import deepspeed

    # Leave out the weights' type: it was set at loading, and with float16 an engine refuses CPUs.
    engine, *_ = deepspeed.initialize(model=model, config=_settings(offload))
    return engine


@contextmanager
def gathered(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a whole parameter or buffer; all ranks have to enter this."""
    import deepspeed

    if not hasattr(tensor, "ds_tensor"):
        yield tensor
        return
    with deepspeed.zero.GatheredParameters([tensor]):
        yield tensor.data


def _whole(weight: Any) -> Tensor:
    with gathered(weight) as found:
        return found.detach().clone()
