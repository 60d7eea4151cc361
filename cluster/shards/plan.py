"""Plan of a worker's ranks from the model's config alone: memory of a rank, size of passes.

Weights are counted exactly for the layout. The memory of a pass is an estimate of the tensors that
training keeps for the backward pass: for each token and layer the inputs of all matrix products and
the inner products of attention and activation, in the weights' type, and in 32 bits the logits of
the last tokens. Seconds of loading assume that weights are read at 1 GB/s on each node.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kilobit.cluster.shards.load import layout_of, outline
from kilobit.cluster.sweep.workers import Layout, ShardsConfig
from kilobit.evaluators.model.machine import weight_bytes
from kilobit.search.base_model import BaseModelConfig

GIB = 1 << 30
# Usable share of a rank's memory: the rest is for libraries, communication and fragmentation.
_USABLE = 0.9
_READ_BYTES_PER_S = 1e9
# Assumed size of a row: answers are short, and only their logits are computed.
_TOKENS_OF_A_ROW, _LOGITS_OF_A_ROW = 256, 16
# Other tensors that a layer keeps of a token for the backward pass (norms, residuals, rotations),
# in hidden sizes.
_OTHERS = 6


@dataclass(frozen=True)
class RankPlan:
    """Resources that a rank needs, in bytes and tokens.

    Attributes:
        layout: layout of the base model.
        weights: bytes of weights that a rank keeps.
        gathered: bytes of the largest layer that is gathered temporarily, 0 if none is.
        token: bytes that a training pass keeps for a token.
        pass_tokens: most tokens of a pass that fit, None if the memory of a rank is not known.
        load_s: seconds of loading.
    """

    layout: Layout
    weights: int
    gathered: int
    token: int
    pass_tokens: int | None
    load_s: float

    def lines(self, label: str, shards: ShardsConfig) -> list[str]:
        """Return the plan as text."""
        alone = shards.world_size == 1
        who = "a worker keeps" if alone else f"{shards.world_size} ranks ({self.layout}) keep"
        gathered = f", {self.gathered / GIB:.2f} GiB gathered" if self.gathered else ""
        found = [
            f"{label}: {who} {self.weights / GIB:.2f} GiB of weights{'' if alone else ' each'}"
            f"{gathered}, loaded in about {max(self.load_s, 1):.0f} s; training keeps "
            f"{self.token / 1e6:.2f} MB for each token of a pass"
        ]
        if self.pass_tokens is not None:
            rows = self.pass_tokens // _TOKENS_OF_A_ROW
            found.append(
                f"{label}: about {self.pass_tokens} tokens a pass, {rows} rows of "
                f"{_TOKENS_OF_A_ROW} tokens, fit beside the weights"
            )
        return found


def plan_ranks(
    config: BaseModelConfig, folder: Path, shards: ShardsConfig, memory_bytes: int | None
) -> RankPlan:
    """Return the plan of a base model's ranks, without reading its weights.

    Args:
        config: the base model.
        folder: base of the model's relative path.
        shards: its ranks.
        memory_bytes: memory of a rank's device, None if it is not known.

    Raises:
        OSError, ValueError: if its config can't be read, it does not support the layout, or it does
            not fit; the message then says how much memory is missing.
    """
    layout = layout_of(config, folder, shards)
    model = outline(config, folder)
    size = torch.finfo(getattr(torch, config.dtype)).bits // 8
    weights, gathered = _weights(model, layout, shards, size)
    if config.quantization is not None:
        weights = weight_bytes(model, config.quantization, size)
    token = _token_bytes(model, layout, shards.world_size, size)
    pass_tokens = None
    if memory_bytes is not None:
        room = int(_USABLE * memory_bytes) - weights - gathered
        pass_tokens = room // token
        if pass_tokens < _TOKENS_OF_A_ROW:
            missing = _TOKENS_OF_A_ROW * token - room
            raise ValueError(
                f"{config.label} does not fit: a rank needs {(weights + gathered) / GIB:.2f} GiB "
                f"for weights and {_TOKENS_OF_A_ROW * token / GIB:.2f} GiB for one row, and has "
                f"{_USABLE * memory_bytes / GIB:.2f} GiB usable; {missing / GIB:.2f} GiB are "
                f"missing: use more ranks than {shards.world_size}, a smaller dtype, or offload"
            )
    whole = size * sum(p.numel() for p in model.parameters())
    return RankPlan(layout, weights, gathered, token, pass_tokens, whole / _READ_BYTES_PER_S)


def _weights(model: Any, layout: Layout, shards: ShardsConfig, size: int) -> tuple[int, int]:
    """Return the bytes of the weights that a rank keeps, and of the largest gathered layer."""
    numbers = {name: p.numel() for name, p in model.named_parameters()}
    whole = size * sum(numbers.values())
    if layout == "one":
        return whole, 0
    if layout == "zero3":
        kept = -(-whole // shards.world_size)
        offloaded = shards.offload is not None
        layers = model.get_decoder().layers
        largest = max(sum(p.numel() for p in layer.parameters()) for layer in layers)
        head = model.get_output_embeddings()
        largest = max(largest, sum(p.numel() for p in head.parameters()))
        return (0 if offloaded else kept), size * largest
    plan = dict(model.tp_plan or {})
    split = sum(
        count
        for name, count in numbers.items()
        if _is_split(plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name.rpartition(".")[0]), ""))
    )
    return size * (sum(numbers.values()) - split + -(-split // shards.world_size)), 0


def _is_split(style: str) -> bool:
    return "colwise" in style or "rowwise" in style


def _token_bytes(model: Any, layout: Layout, world_size: int, size: int) -> int:
    config = model.config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    if layout == "tensor":
        inner = -(-inner // world_size)
    logits = 4 * config.vocab_size * _LOGITS_OF_A_ROW // _TOKENS_OF_A_ROW
    return int(size * layers * ((4 + _OTHERS) * hidden + 3 * inner) + logits)
