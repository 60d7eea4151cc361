"""What the tests' ranks hold: plain objects, and a base model with low-rank updates by hooks."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ray.util.placement_group import remove_placement_group
from torch import Tensor
from torch.nn import functional

from kilobit.cluster.fleet.pool import request_placement
from kilobit.cluster.shards.group import GroupError, ShardGroup
from kilobit.cluster.shards.load import load_sharded
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.placement import needs_of
from kilobit.cluster.sweep.workers import ShardsConfig, Workers
from kilobit.evaluators.model.base_model import FrozenModel, unchanged
from kilobit.evaluators.model.generate import generate
from kilobit.search.base_model import BaseModelConfig

ROWS, TOKENS, RANK = 4, 9, 2


def room_for(shards: ShardsConfig) -> Any:
    """Return a placement group with room for the ranks of one worker."""
    workers = {"m": Workers(shards=shards)}
    return request_placement(needs_of(workers, {"m": 0.1})[0])


class Caller:
    """A process that is rank 0 of one group after another."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._group: ShardGroup[Any] | None = None
        self._room: Any = None

    def start(self, shards: ShardsConfig, factory: Any, *args: Any) -> None:
        self._room = self._room or room_for(shards)
        self._group = ShardGroup(shards, "cpu", factory, args, self._room)

    def call(self, method: str, *args: Any) -> Any:
        assert self._group is not None
        return self._group.call(method, *args)

    def try_call(self, method: str, *args: Any) -> tuple[str, int | None, str, float]:
        """Return type, rank and text of the error that a call raises, and the seconds it took."""
        began = time.monotonic()
        try:
            self.call(method, *args)
        except GroupError as error:
            return "GroupError", error.rank, str(error), time.monotonic() - began
        except Exception as error:  # noqa: BLE001
            return type(error).__name__, None, str(error), time.monotonic() - began
        raise AssertionError("no error")

    def stop(self) -> None:
        assert self._group is not None
        self._group.stop()
        remove_placement_group(self._room)


class Plain:
    """A rank without a model."""

    def __init__(self, address: RankAddress) -> None:
        self.address = address

    def pids(self) -> list[int]:
        pids = torch.zeros(self.address.world_size, dtype=torch.int64)
        pids[self.address.rank] = os.getpid()
        dist.all_reduce(pids)
        return list(pids.tolist())

    def reduce(self, times: Sequence[int]) -> int:
        """All-reduce as often as is listed for this rank."""
        for _ in range(times[self.address.rank]):
            dist.all_reduce(torch.ones(1))
        return times[self.address.rank]

    def die(self, rank: int) -> None:
        if self.address.rank == rank:
            os._exit(1)
        dist.all_reduce(torch.ones(1))

    def fail(self, ranks: Sequence[int]) -> None:
        if self.address.rank in ranks:
            raise ValueError("no such word")
        dist.all_reduce(torch.ones(1))

    def sleep(self, rank: int) -> None:
        if self.address.rank == rank:
            time.sleep(60)


class ModelRank:
    """A rank's part of a base model."""

    def __init__(
        self,
        address: RankAddress,
        config: BaseModelConfig,
        shards: ShardsConfig,
        targets: Sequence[str],
    ) -> None:
        torch.set_num_threads(1)
        self.frozen: FrozenModel = load_sharded(config, Path(), shards, address)
        self._targets, self._rows = targets, slice(0, ROWS)
        vocabulary = self.frozen.model.config.vocab_size
        generator = torch.Generator().manual_seed(1)
        self._ids = torch.randint(1, vocabulary, (ROWS, TOKENS), generator=generator)

    def digest(self) -> str:
        return self.frozen.digest

    def splits_rows(self) -> bool:
        return self.frozen.shard.splits_rows

    def unchanged(self) -> bool:
        return unchanged(self.frozen)

    def spoil(self, rank: int) -> None:
        """Change one number of one rank's part."""
        if self.frozen.shard.rank == rank:
            parameter = next(self.frozen.model.parameters())
            part = parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.to_local()
            part.data.view(-1)[0] += 1.0

    def kept(self) -> int:
        """Return how many numbers this rank keeps."""
        return sum(
            (p.data.numel() + p.ds_tensor.numel())
            if hasattr(p, "ds_tensor")
            else (p.to_local() if hasattr(p, "to_local") else p).numel()
            for p in self.frozen.model.parameters()
        )

    @torch.no_grad()
    def logits(self) -> Any:
        return self.frozen.model(input_ids=self._ids).logits.float().numpy()

    def texts(self, prompts: Sequence[str]) -> list[str]:
        return generate(
            self.frozen, prompts, max_new_tokens=6, stop=("\n",), batch_size=len(prompts)
        ).texts

    def train(self, steps: int) -> tuple[list[float], list[Any], Any, list[list[float]]]:
        """Train updates of the targets and scales of some outputs and inputs.

        Returns:
            The losses, the first step's gradients, the logits after the last step, and each rank's
            sums of the trained numbers.
        """
        model, shard = self.frozen.model, self.frozen.shard
        factors = self._put_on()
        trained = [tensor for tensors in factors.values() for tensor in tensors]
        # Adam would turn the rounding of a gradient near zero into a whole step.
        optimizer = torch.optim.SGD(trained, lr=0.02)
        if shard.splits_rows:
            size = ROWS // shard.world_size
            self._rows = slice(shard.rank * size, (shard.rank + 1) * size)
        losses, first = [], None
        for _ in range(steps):
            ids = self._ids[self._rows]
            logits = model(input_ids=ids).logits[:, :-1].float()
            loss = functional.cross_entropy(
                logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
            )
            (loss / (ROWS * (TOKENS - 1))).backward()
            shard.sum_gradients(trained)
            total = shard.sum(loss) if shard.splits_rows else loss.detach()
            losses.append(float(total) / (ROWS * (TOKENS - 1)))
            if first is None:
                first = [tensor.grad.numpy().copy() for tensor in trained]
            optimizer.step()
            optimizer.zero_grad()
        self._rows = slice(0, ROWS)
        after = self.logits()
        sums = torch.zeros(shard.world_size, len(trained), dtype=torch.float64)
        sums[shard.rank] = torch.stack([t.detach().double().sum() for t in trained])
        sums = shard.sum(sums)
        for handle in self._handles:
            handle.remove()
        return losses, first or [], after, sums.tolist()

    def _put_on(self) -> dict[str, tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(5)
        factors: dict[str, tuple[Tensor, ...]] = {}
        self._handles = []
        for name, module in self.frozen.model.named_modules():
            kind = name.rpartition(".")[2]
            if kind not in self._targets:
                continue
            if kind.endswith("norm"):
                size = module.weight.ds_shape[0] if hasattr(module.weight, "ds_shape") else None
                size = size or module.weight.shape[0]
                made = [1.0 + 0.3 * torch.randn(ROWS, size, generator=generator)]
                hook = self._scale_hook(name, made)
            elif hasattr(module, "in_features"):
                inside, outside = module.in_features, module.out_features
                made = [
                    0.3 * torch.randn(ROWS, RANK, inside, generator=generator),
                    0.3 * torch.randn(ROWS, outside, RANK, generator=generator),
                    1.0 + 0.3 * torch.randn(ROWS, outside, generator=generator),
                ]
                hook = self._linear_hook(name, made)
            else:
                inside, outside = module.nx, module.nf
                made = [
                    0.3 * torch.randn(ROWS, RANK, inside, generator=generator),
                    0.3 * torch.randn(ROWS, outside, RANK, generator=generator),
                ]
                hook = self._linear_hook(name, made)
            for tensor in made:
                tensor.requires_grad_()
            factors[name] = tuple(made)
            self._handles.append(module.register_forward_hook(hook))
        return factors

    def _linear_hook(self, name: str, made: list[Tensor]) -> Any:
        shard = self.frozen.shard

        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
            down, up = made[0][self._rows], made[1][self._rows]
            output = output + shard.low_rank(name, inputs[0], down, up).to(output.dtype)
            if len(made) > 2:
                scale = shard.part_of_output(name, made[2][self._rows])
                output = output * scale[:, None].to(output.dtype)
            return output

        return hook

    def _scale_hook(self, name: str, made: list[Tensor]) -> Any:
        shard = self.frozen.shard

        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
            scale = shard.part_of_output(name, made[0][self._rows])
            return output * scale.view(-1, *[1] * (output.ndim - 2), scale.shape[-1])

        return hook
