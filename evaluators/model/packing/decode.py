"""Greedy generation for rows of several candidates at once.

Each row gets the tokens that `model.generate` returns for its candidate alone, up to the order of
float sums: a near tie between two tokens may be broken differently. The key-value cache of the
prefix that all rows of a candidate share is computed once. A row ends at a stop string, at the
model's end token or at its limit; ended rows are removed from the batch.

Soft tokens are negative ids, see `kilobit.evaluators.model.packing.pack`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from kilobit.evaluators.model.base_model import FrozenModel, check_ids
from kilobit.evaluators.model.generate import detector
from kilobit.evaluators.model.packing.deltas import Changes
from kilobit.evaluators.model.packing.forward import Reading, SlotRow
from kilobit.evaluators.model.packing.pack import Pack
from kilobit.evaluators.model.packing.passes import Planner

# Remove ended rows once they are this share of a batch; removal copies the other rows' cache.
_WORTH_REMOVING = 0.25


@dataclass(frozen=True)
class Asked:
    """A prompt row to continue.

    Attributes:
        slot: index of the row's candidate in the pack.
        ids: tokens so far, soft ones first.
        max_new_tokens: most tokens of the answer.
        stop: strings that end the answer.
    """

    slot: int
    ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Return the largest number of tokens that the row can reach."""
        return len(self.ids) + self.max_new_tokens


def check_context(frozen: FrozenModel, row: Asked) -> None:
    """Check that a row with its longest answer fits into the model's context and vocabulary.

    Raises:
        ValueError: if it does not.
    """
    check_ids(frozen, row.ids)
    if frozen.context is not None and row.tokens > frozen.context:
        raise ValueError(
            f"a prompt of {len(row.ids)} tokens and an answer of {row.max_new_tokens} do not fit "
            f"into the model's context of {frozen.context} tokens"
        )


def answer(
    frozen: FrozenModel,
    slots: Sequence[Changes],
    rows: Sequence[Asked],
    planner: Planner,
) -> list[list[int] | Exception]:
    """Return the new tokens of each row, up to and including the end token.

    Args:
        frozen: the base model.
        slots: each candidate's changes to the base model.
        rows: checked by `check_context`; they run in as many passes as the planner makes.
        planner: splits the rows into passes; halves a pass that fails.

    Returns:
        An entry per row; an error for a row that fails even alone.
    """

    def work(part: Sequence[int]) -> list[list[int]]:
        own, used = _of_pass(rows, part)
        with Pack(frozen.model, [slots[slot] for slot in used], frozen.shard) as pack:
            return continue_rows(frozen, pack, own)

    return planner.run([row.tokens for row in rows], work)


def judge(
    frozen: FrozenModel,
    slots: Sequence[Changes],
    rows: Sequence[Asked],
    answers: Sequence[Sequence[int]],
    planner: Planner,
) -> list[tuple[float, bool] | Exception]:
    """Return `judge_answers` of any number of rows, an error for a row that fails even alone.

    The arguments are those of `answer` and of `judge_answers`.
    """

    def work(part: Sequence[int]) -> list[tuple[float, bool]]:
        own, used = _of_pass(rows, part)
        with Pack(frozen.model, [slots[slot] for slot in used], frozen.shard) as pack:
            return judge_answers(frozen, pack, own, [answers[i] for i in part])

    return planner.run([row.tokens for row in rows], work)


def _of_pass(rows: Sequence[Asked], part: Sequence[int]) -> tuple[list[Asked], list[int]]:
    """Return the rows of a pass, and the slots that they use, in the order of their numbers.

    With only its own slots in a pass, one whose numbers can't be had fails alone.
    """
    used = sorted({rows[i].slot for i in part})
    return [replace(rows[i], slot=used.index(rows[i].slot)) for i in part], used


@torch.no_grad()
def continue_rows(frozen: FrozenModel, pack: Pack, rows: Sequence[Asked]) -> list[list[int]]:
    """Return the new tokens of each row in one pass; see `answer`."""
    if not rows:
        return []
    reading = _reading(frozen, pack, [(row.slot, row.ids) for row in rows])
    rest = reading.begin()
    with pack.rows(reading.slots):
        return _continue(frozen, reading, rows, reading.read(rest, 1)[:, -1])


@torch.no_grad()
def judge_answers(
    frozen: FrozenModel, pack: Pack, rows: Sequence[Asked], answers: Sequence[Sequence[int]]
) -> list[tuple[float, bool]]:
    """Return the log-probability in nats of each answer's tokens after its row, in one pass.

    The second value is whether every token is the likeliest one at its position. An answer has at
    least one token; its last one is not fed to the model, so a row may be one token longer than the
    model's context.
    """
    if not rows:
        return []
    whole = [(row.slot, (*row.ids, *new[:-1])) for row, new in zip(rows, answers, strict=True)]
    reading = _reading(frozen, pack, whole)
    longest = max(map(len, answers))
    with pack.rows(reading.slots):
        logits = reading.read([ids for _, ids in whole], longest)
    found = []
    for row, new in enumerate(answers):
        # Rows are padded on the left, so an answer's tokens are the last ones.
        told = logits[row, longest - len(new) :].float().log_softmax(-1)
        ids = torch.tensor(list(new), device=told.device)
        nats = float(told.gather(1, ids[:, None]).sum())
        found.append((nats, bool((told.argmax(-1) == ids).all())))
    return found


def _reading(frozen: FrozenModel, pack: Pack, rows: Sequence[SlotRow]) -> Reading:
    return Reading(pack, rows, frozen.tokenizer.pad_token_id, frozen.model.device)


def _continue(
    frozen: FrozenModel, reading: Reading, rows: Sequence[Asked], logits: torch.Tensor
) -> list[list[int]]:
    device, pad = frozen.model.device, frozen.tokenizer.pad_token_id
    ends = frozen.model.generation_config.eos_token_id
    ends = torch.tensor(ends, dtype=torch.long, device=device)
    found: list[list[int]] = [[] for _ in rows]
    stops = _Stops(frozen, rows)
    alive = torch.arange(len(rows), device=device)
    limits = torch.tensor([row.max_new_tokens for row in rows], device=device)
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    for step in range(int(limits.max())):
        chosen = torch.where(ended, pad, logits.argmax(-1))
        columns = (alive.tolist(), chosen.tolist(), ended.tolist())
        for row, token, over in zip(*columns, strict=True):
            if not over:
                found[row].append(token)
        ended = ended | torch.isin(chosen, ends) | (limits[alive] <= step + 1)
        ended = ended | stops.seen(chosen)
        if bool(ended.all()):
            break
        if float(ended.float().mean()) >= _WORTH_REMOVING:
            keep = (~ended).nonzero()[:, 0]
            reading.keep(keep)
            stops.keep(keep)
            alive, chosen, ended = alive[keep], chosen[keep], ended[keep]
        logits = reading.next(chosen)
    return found


class _Stops:
    """Detector of stop strings, by the rule of `model.generate`."""

    def __init__(self, frozen: FrozenModel, rows: Sequence[Asked]) -> None:
        self._kinds = list(dict.fromkeys(row.stop for row in rows))
        self._criteria = [detector(frozen, stop) if stop else None for stop in self._kinds]
        longest = max((c.maximum_token_len for c in self._criteria if c), default=0)
        pad = frozen.tokenizer.pad_token_id
        # By that rule a stop string may begin in the prompt, so include its end.
        tails = [[*[pad] * longest, *(max(i, 0) for i in row.ids)][-longest:] for row in rows]
        self._tails = torch.tensor(tails if longest else [[]] * len(rows)).to(frozen.model.device)
        kinds = [self._kinds.index(row.stop) for row in rows]
        self._kind = torch.tensor(kinds).to(frozen.model.device)

    def seen(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return for each row whether its new token completes a stop string."""
        found = torch.zeros_like(chosen, dtype=torch.bool)
        if not self._tails.shape[1]:
            return found
        self._tails = torch.cat([self._tails[:, 1:], chosen[:, None]], 1)
        for kind, criterion in enumerate(self._criteria):
            if criterion is not None:
                found |= (self._kind == kind) & criterion(self._tails, None)
        return found

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only the given rows."""
        self._tails, self._kind = self._tails[rows], self._kind[rows]
