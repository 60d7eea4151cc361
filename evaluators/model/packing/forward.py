"""Reader that feeds rows of tokens to a pack: left-padded, a shared prefix once per slot.

The prefix that all rows of a candidate share (instruction and demonstrations) goes through the
model once, and its keys and values are copied to the rows. Gradients flow back through the copies,
so training reads in the same way.

Padding lies before a row's first token only: models count sliding windows, chunks and ALiBi's
distances in slots of the cache, so padding between two tokens would change what the model sees. A
row that is shorter than the others is therefore copied less of its prefix, and reads the end of it
again in the places where padding would be.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from kilobit.evaluators.model.packing.pack import Pack

# Fewest tokens of a shared prefix that is worth a pass of its own.
_WORTH_SHARING = 8
# A slot and the ids of a row.
SlotRow = tuple[int, Sequence[int]]


class Reading:
    """Rows partly read by the model, with their key-value cache.

    Args:
        pack: the entered pack.
        rows: slot and ids of each row.
        pad: the padding token.
        device: the model's device.
    """

    def __init__(self, pack: Pack, rows: Sequence[SlotRow], pad: int, device: Any) -> None:
        self._pack, self._rows, self._pad, self._device = pack, rows, pad, device
        self.slots = self._tensor([slot for slot, _ in rows])
        self._cache: Any = None
        self._mask = torch.zeros(len(rows), 0, dtype=torch.long, device=device)

    def begin(
        self, answers: Sequence[Sequence[int]] | None = None, share: bool = True
    ) -> list[list[int]]:
        """Read the shared prefixes and return the ids that each row has to read next.

        Args:
            answers: ids that each row reads after its own, in the same pass; none by default.
            share: False to read every row whole, in one pass whatever the rows are.
        """
        shared = _shared(self._rows) if share else dict.fromkeys((s for s, _ in self._rows), 0)
        whole = [ids for _, ids in self._rows]
        if answers is not None:
            whole = [(*ids, *answer) for ids, answer in zip(whole, answers, strict=True)]
        width = max(
            len(ids) - shared[slot] for (slot, _), ids in zip(self._rows, whole, strict=True)
        )
        kept = [max(0, len(ids) - width) for ids in whole]
        if any(kept):
            self._read_shared({slot: n for slot, n in shared.items() if n}, kept)
        return [list(ids[n:]) for ids, n in zip(whole, kept, strict=True)]

    def read(self, ids: Sequence[Sequence[int]], keep: int) -> torch.Tensor:
        """Read the next ids of each row; return logits of the last `keep` positions.

        Shape [rows, keep, vocabulary]. Call it within `pack.rows`, which assigns the rows' slots.
        """
        width = max(map(len, ids))
        padded = self._tensor([[self._pad] * (width - len(row)) + list(row) for row in ids])
        real = self._tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        return self._forward(padded, real, keep)

    def next(self, chosen: torch.Tensor) -> torch.Tensor:
        """Read one more token of each row, shape [rows]; return logits [rows, vocabulary]."""
        ones = torch.ones_like(chosen)[:, None]
        return self._forward(chosen[:, None], ones, 1)[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only the given rows."""
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
        self._pack.select(rows)

    def _forward(self, ids: torch.Tensor, real: torch.Tensor, keep: int) -> torch.Tensor:
        before = self._mask.sum(1, keepdim=True)
        self._mask = torch.cat([self._mask, real], 1)
        out = self._pack(
            ids,
            attention_mask=self._mask,
            position_ids=(before + real.cumsum(1) - 1).clamp(min=0),
            past_key_values=self._cache if self._cache is not None else DynamicCache(),
            use_cache=True,
            logits_to_keep=keep,
        )
        self._cache = out.past_key_values
        logits: torch.Tensor = out.logits
        return logits

    def _read_shared(self, shared: dict[int, int], kept: Sequence[int]) -> None:
        """Read the shared prefix of each slot; copy the first `kept` tokens to each row."""
        ids = dict(self._rows)
        self._mask = torch.zeros(len(shared), 0, dtype=torch.long, device=self._device)
        with self._pack.rows(self._tensor(list(shared))):
            self.read([ids[slot][:length] for slot, length in shared.items()], 1)
        position = {slot: i for i, slot in enumerate(shared)}
        source = self._tensor([position.get(slot, 0) for slot, _ in self._rows])
        lengths = self._tensor([shared.get(slot, 0) for slot, _ in self._rows])
        copied = self._tensor(kept)
        last = torch.arange(-max(kept), 0, device=self._device)
        # Place of each copied token among those of the prefix, which is padded on the left too.
        tokens = copied[:, None] + last
        self._mask = (tokens >= 0).long()
        slots = (max(shared.values()) - lengths[:, None] + tokens).clamp(min=0)
        for layer in self._cache.layers:
            layer.keys = _copied(layer.keys, source, slots)
            layer.values = _copied(layer.values, source, slots)
            if not all(slot in shared for slot, _ in self._rows):
                # A masked number counts zero times, but zero times another candidate's NaN is NaN.
                own = (lengths > 0)[:, None, None, None]
                layer.keys = layer.keys.where(own, torch.zeros_like(layer.keys))
                layer.values = layer.values.where(own, torch.zeros_like(layer.values))

    def _tensor(self, values: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def _copied(cached: torch.Tensor, source: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Return [rows, heads, kept, size] of [prefixes, heads, tokens, size]."""
    return cached[source[:, None], :, slots].transpose(1, 2)


def _shared(rows: Sequence[SlotRow]) -> dict[int, int]:
    """Return the length of each slot's shared prefix, 0 where it is not worth a pass.

    At least one token of each row remains after it.
    """
    of: dict[int, list[tuple[int, ...]]] = {}
    for slot, ids in rows:
        of.setdefault(slot, []).append(tuple(ids))
    found = {}
    for slot, all_ids in of.items():
        low, high = min(all_ids), max(all_ids)
        most = min(map(len, all_ids)) - 1
        same = next((i for i in range(most) if low[i] != high[i]), most)
        found[slot] = same if len(all_ids) > 1 and same >= _WORTH_SHARING else 0
    return found
