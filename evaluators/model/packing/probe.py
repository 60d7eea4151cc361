"""Probe of a base model: whether packed passes give what the model gives alone.

Packs assume that a model keeps keys and values of every token, that padding on the left changes
nothing, and that its modules see a batch row by row. Most models are so, some are not (state
spaces, experts that see tokens of all rows, caches of another form), and new architectures may
break it in new ways. So each model is tried when it is loaded, and candidates run one by one where
packs do not hold.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.pytorch_utils import Conv1D

from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.packing.deltas import Changes, LowRank
from kilobit.evaluators.model.packing.forward import Reading, SlotRow
from kilobit.evaluators.model.packing.pack import Pack

# Largest error of packed logits and gradients, relative to their spread: sums in another order.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_SHORT, _LONGEST_ON_CPU, _LONGEST = 24, 512, 8192
_WINDOWS = ("sliding_window", "attention_chunk_size")
_RANK = 2


@dataclass(frozen=True)
class Probe:
    """Result of a probe.

    Attributes:
        why_not: the reason for which packs do not hold, None if they do.
        modules: the modules that see a batch row by row; an adapter on others runs alone.
    """

    why_not: str | None
    modules: frozenset[str] = frozenset()

    @property
    def holds(self) -> bool:
        """Return whether candidates may share passes."""
        return self.why_not is None

    def takes(self, changes: Changes) -> bool:
        """Return whether an adapter with these changes may share passes with others."""
        return self.holds and self.modules >= {name for name in changes if name}


_KNOWN: WeakKeyDictionary[Any, Probe] = WeakKeyDictionary()


def probe(frozen: FrozenModel) -> Probe:
    """Return the result of a model's probe, which runs once; all ranks have to call this.

    They agree: what does not hold on one of them holds on none.

    Raises:
        ValueError: if the model answers by no numbers at all, as damaged weights make it do.
    """
    if frozen.model not in _KNOWN:
        _check_numbers(frozen)
        found = _probed(frozen)
        failed = torch.tensor(int(not found.holds), dtype=torch.int64, device=frozen.model.device)
        if int(frozen.shard.sum(failed)) and found.holds:
            found = Probe("they do not on another rank")
        _KNOWN[frozen.model] = found
    return _KNOWN[frozen.model]


def outline(model: Any) -> Probe:
    """Return a probe by the modules and the cache of a model on the meta device, before loading.

    The probe of the loaded model compares numbers too; it decides about models that can't be run on
    the meta device.
    """
    ids, seen = torch.zeros(2, 5, dtype=torch.long, device="meta"), dict[str, bool]()
    experts = getattr(model.config, "_experts_implementation", None)
    try:
        if experts is not None:
            # The one that asks no tensor for its numbers, which the meta device does not have.
            model.set_experts_implementation("batched_mm")
        with torch.no_grad(), _noting(model, len(ids), seen):
            cache = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
    except Exception:  # noqa: BLE001 - a model may fail in any way
        return Probe(None, frozenset(name for name, _ in model.named_modules()))
    finally:
        if experts is not None:
            model.set_experts_implementation(experts)
    layers = getattr(cache, "layers", [])
    if not layers or {type(layer) for layer in layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
        return Probe("its cache is not keys and values of every token")
    return Probe(None, frozenset(name for name, by_row in seen.items() if by_row))


def _check_numbers(frozen: FrozenModel) -> None:
    (_, tokens), *_ = _rows(frozen)[0]
    ids = torch.tensor([tokens[:8]], dtype=torch.long, device=frozen.model.device)
    try:
        with torch.no_grad():
            logits = frozen.model(input_ids=ids, use_cache=False).logits
    except Exception:  # noqa: BLE001 - a model may fail in any way, which the probe reports
        return
    if bool(logits.isnan().any()):
        raise ValueError(
            "its logits are NaN: its weights are damaged or overflow in "
            f"{str(frozen.model.dtype).removeprefix('torch.')}; try another `dtype`"
        )


def _probed(frozen: FrozenModel) -> Probe:
    try:
        rows, answers = _rows(frozen)
        seen: dict[str, bool] = {}
        with torch.no_grad(), _noting(frozen.model, len(rows), seen):
            packed = _packed_logits(frozen, [{}, {}], rows, answers)
        modules = frozenset(name for name, by_row in seen.items() if by_row)
        with torch.no_grad():
            alone = [_alone(frozen, {}, row, new) for row, new in zip(rows, answers, strict=True)]
        error = max(_relative(a, b) for a, b in zip(packed, alone, strict=True))
        if not error <= _tolerance(frozen):
            return Probe(f"the logits of packed rows differ from the model's own by {error:.1%}")
        error = _training_error(frozen, sorted(modules), rows, answers)
        if not error <= _tolerance(frozen):
            return Probe(f"gradients of packed rows differ from the model's own by {error:.1%}")
    except Exception as raised:  # noqa: BLE001 - a model may fail in any way
        text = (str(raised).strip() or "no message").splitlines()[0]
        return Probe(f"a packed pass raises {type(raised).__name__}: {text}")
    return Probe(None, modules)


def _tolerance(frozen: FrozenModel) -> float:
    return _TOLERANCE.get(frozen.model.dtype, 1e-3)


def _rows(frozen: FrozenModel) -> tuple[list[SlotRow], list[list[int]]]:
    """Return rows with a shared prefix longer than the model's windows if that fits, and answers.

    Their lengths differ, so that there is padding, and one slot has a single short row.
    """
    config = frozen.model.config.get_text_config()
    window = max(getattr(config, name, None) or 0 for name in _WINDOWS)
    most = _LONGEST if frozen.model.device.type == "cuda" else _LONGEST_ON_CPU
    room = (frozen.context or most) - _SHORT
    length = max(12, min(_SHORT + window, most, room))
    size = min(int(config.vocab_size), len(frozen.tokenizer))
    ids = [(7 * i + i // 5) % size for i in range(length + _SHORT)]
    start, rest = ids[:length], ids[length:]
    rows: list[SlotRow] = [(0, (*start, *rest[:9])), (0, (*start, rest[3])), (1, tuple(rest[4:8]))]
    return rows, [rest[9:11], rest[11:16], rest[16:19]]


def _packed_logits(
    frozen: FrozenModel,
    slots: Sequence[Changes],
    rows: Sequence[SlotRow],
    answers: Sequence[Sequence[int]],
) -> list[torch.Tensor]:
    """Return the logits at each answer's tokens, shape [tokens, vocabulary]."""
    with Pack(frozen.model, slots, frozen.shard) as pack:
        reading = Reading(pack, rows, frozen.tokenizer.pad_token_id, frozen.model.device)
        rest = reading.begin(answers)
        with pack.rows(reading.slots):
            logits = reading.read(rest, max(map(len, answers)) + 1)
    return [logits[row, -len(new) - 1 : -1].float() for row, new in enumerate(answers)]


def _alone(
    frozen: FrozenModel, changes: Changes, row: SlotRow, answer: Sequence[int]
) -> torch.Tensor:
    """Return the logits at an answer's tokens, read by the model alone and without a cache."""
    device = frozen.model.device
    ids = torch.tensor([[*row[1], *answer]], dtype=torch.long, device=device)
    slots = torch.zeros(1, dtype=torch.long, device=device)
    with Pack(frozen.model, [changes], frozen.shard) as pack, pack.rows(slots):
        logits: torch.Tensor = pack(ids, use_cache=False).logits
    return logits[0, -len(answer) - 1 : -1].float()


def _training_error(
    frozen: FrozenModel,
    modules: Sequence[str],
    rows: Sequence[SlotRow],
    answers: Sequence[Sequence[int]],
) -> float:
    """Return the error of the gradients of a low-rank update, 0 without a module for it."""
    named = dict(frozen.model.named_modules())
    linear = [name for name in modules if isinstance(named[name], nn.Linear)]
    # Updates of the output layer would not show what a cache does to the layers before it.
    inner = [name for name in linear if "." in name and "head" not in name.rpartition(".")[2]]
    # ZeRO-3 gathers weights in a backward pass through the whole model only, not up to one module.
    if not inner or frozen.shard.splits_rows:
        return 0.0
    name = inner[0]
    shape = (named[name].out_features, named[name].in_features)
    down, up = _factors(shape, frozen)
    changes: Changes = {name: LowRank(lambda: (down, up))}
    packed = _packed_logits(frozen, [changes, {}], rows, answers)
    found = _gradient(packed[:2], answers, up)
    alone = [_alone(frozen, changes, rows[i], answers[i]) for i in range(2)]
    return _relative(found, _gradient(alone, answers, up))


def _factors(shape: tuple[int, int], frozen: FrozenModel) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(_RANK, shape[1], generator=generator) / shape[1] ** 0.5
    up = 0.1 * torch.randn(shape[0], _RANK, generator=generator)
    device = frozen.model.device
    return down.to(device), up.to(device).requires_grad_()


def _gradient(
    logits: Sequence[torch.Tensor], answers: Sequence[Sequence[int]], weight: torch.Tensor
) -> torch.Tensor:
    loss = torch.zeros((), device=weight.device)
    for each, answer in zip(logits, answers, strict=False):
        ids = torch.tensor(list(answer), dtype=torch.long, device=each.device)
        loss = loss + nn.functional.cross_entropy(each, ids)
    (found,) = torch.autograd.grad(loss, weight)
    return found


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference in units of the norm of what is expected."""
    centred = expected - expected.mean(-1, keepdim=True)
    return float((found - expected).norm() / centred.norm().clamp(min=1e-12))


@contextmanager
def _noting(model: nn.Module, rows: int, seen: dict[str, bool]) -> Iterator[None]:
    """Note for each module with a weight whether it always sees and returns a batch by rows."""
    handles = [
        module.register_forward_hook(partial(_note, seen, name, rows))
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note(
    seen: dict[str, bool], name: str, rows: int, module: nn.Module, args: Any, output: Any
) -> None:
    tensors = (args[0] if args else None, output)
    # A norm may see heads too, [rows, tokens, heads, size].
    most = 3 if isinstance(module, nn.Linear | Conv1D) else 4
    by_row = all(isinstance(t, torch.Tensor) and 3 <= t.dim() <= most for t in tensors)
    # The two prefixes that are read first are fewer rows than the batch itself.
    by_row = by_row and all(len(t) in (1, rows) for t in tensors if t is not None)
    seen[name] = seen.get(name, True) and by_row
