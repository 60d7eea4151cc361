"""Planner that splits rows into passes of as many tokens as fit into memory.

A planner starts with the measured size (`kilobit.evaluators.model.packing.passes`) and halves it if
memory still runs out.

Measurement of the largest pass, in tokens, that this device can run.
"""

import hashlib
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from kilobit.evaluators.model.base_model import ALONE, FrozenModel, Shard

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
Item = TypeVar("Item")
Result = TypeVar("Result")
# On CPUs the matrix products dominate. Measured on the embedded models, 4,096 tokens are the
# fastest (half and double are 10 % slower), because the matrices then stay in the cache.
_CPU_TOKENS = 4096
_TRIED = 1024
# Share of the free memory for a pass: adapters, optimizers and caches need the rest.
_SHARE = 0.6
# Ranks that raise the same error do so within moments.
_PATIENCE_S = 20.0
_raised: Counter[str] = Counter()


class Planner:
    """Splitter of work into passes.

    Attributes:
        limit: most tokens of a pass, None without a limit.
        shard: the ranks that run the passes together.
    """

    def __init__(self, limit: int | None = None, shard: Shard = ALONE) -> None:
        self.limit, self.shard = limit, shard

    def may_try_again(self, error: BaseException) -> bool:
        """Return whether halves of a pass that raised `error` may be tried in this process.

        With several ranks it may be another rank's death, which the shard group has to see, or be
        raised on this rank alone: the others would then wait in a collective operation of the pass
        that failed and take the numbers of the new one for theirs. So all ranks have to raise it.
        ZeRO-3 does not take up a pass again that it did not end.
        """
        alone = self.shard.world_size == 1
        if alone or is_out_of_memory(error):
            return True
        return not self.shard.splits_rows and raised_on_all_ranks(error, self.shard.world_size)

    def ran_out(self, tokens: int) -> None:
        """Lower the limit to half of `tokens`, the size of a pass that ran out of memory."""
        half = max(1, tokens // 2)
        self.limit = half if self.limit is None else min(self.limit, half)

    def run(
        self, sizes: Sequence[int], work: Callable[[list[int]], Sequence[Result]]
    ) -> list[Result | Exception]:
        """Return the results of all rows; halve a pass that runs out of memory or fails.

        Args:
            sizes: tokens of each row.
            work: takes the indices of the rows of a pass and returns their results.

        Returns:
            An entry per row; an error for a row that fails even alone.
        """
        found: dict[int, Result | Exception] = {}
        todo = self.split(range(len(sizes)), lambda i: sizes[i])
        while todo:
            part = todo.pop(0)
            try:
                new = work(part)
            except Exception as error:
                # The frames of the error reference the pass's tensors.
                traceback.clear_frames(error.__traceback__)
                failure = error
                if not self.may_try_again(error):
                    raise
            else:
                found.update(zip(part, new, strict=True))
                continue
            if is_out_of_memory(failure):
                self.ran_out(sum(sizes[i] for i in part))
                failure = MemoryError(f"a row does not fit into memory: {failure}")
            half = len(part) // 2
            if half:
                todo[:0] = [part[:half], part[half:]]
            else:
                found[part[0]] = failure
        return [found[i] for i in range(len(sizes))]

    def split(self, items: Sequence[Item], size: Callable[[Item], int]) -> list[list[Item]]:
        """Return `items`, in order, as passes within the limit, each of at least one item."""
        passes: list[list[Item]] = []
        room = 0
        for item in items:
            if not passes or (self.limit is not None and size(item) > room):
                passes.append([])
                room = self.limit or 0
            passes[-1].append(item)
            room -= size(item)
        return passes


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that an allocation failed, on a GPU or on a CPU."""
    # PyTorch has an error type for GPUs only; on a CPU it raises RuntimeError with the OS's text.
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)


def raised_on_all_ranks(error: BaseException, world_size: int) -> bool:
    """Return whether every rank raised an error of this type and text for the same time.

    The ranks ask one another beside the process group, because a rank that raised nothing waits in
    a collective operation. It is not known before the last rank says so, or patience ends.
    """
    text = f"{type(error).__name__} {error}"
    _raised[text] += 1
    name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    key = f"raised-{name}-{_raised[text]}"
    store = torch.distributed.distributed_c10d._get_default_store()  # noqa: SLF001
    number, until = store.add(key, 1), time.monotonic() + _PATIENCE_S
    while number < world_size and time.monotonic() < until:
        time.sleep(0.01)
        number = store.add(key, 0)
    return bool(number >= world_size)


def pass_tokens(frozen: FrozenModel) -> int:
    """Return the most tokens of a pass; on a GPU estimated from the memory of one training pass.

    If the estimate is too high, memory runs out and the planner halves it. All ranks have to call
    this, and split their work into the same passes, so the smallest limit counts.
    """
    limits = torch.zeros(frozen.shard.world_size, dtype=torch.int64, device=frozen.model.device)
    limits[frozen.shard.rank] = _tokens_here(frozen)
    return int(frozen.shard.sum(limits).min())


def _tokens_here(frozen: FrozenModel) -> int:
    device = frozen.model.device
    if device.type != "cuda":
        return _CPU_TOKENS
    try:
        return _measured_tokens(frozen)
    except Exception:  # noqa: BLE001 - a model may not take embeddings, for one
        return _TRIED


def _measured_tokens(frozen: FrozenModel) -> int:
    device = frozen.model.device
    width = min(128, frozen.context or 128)
    ids = torch.zeros(max(1, _TRIED // width), width, dtype=torch.long, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    embedded = frozen.model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = frozen.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=8).logits
    torch.autograd.backward(logits.float().logsumexp(-1).sum())
    used = torch.cuda.max_memory_allocated(device) - before
    del embedded, logits
    free, _ = torch.cuda.mem_get_info(device)
    return max(_TRIED, int(_SHARE * free / max(used, 1) * ids.numel()))
