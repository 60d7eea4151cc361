"""Training many adapters at once: one forward and one backward pass for a step of all of them.

Each keeps its own optimizer, examples, learning rate and number of steps. Its loss is the mean over
its own answers' tokens, so its gradients are those that it would have alone; only the order of
float sums differs. One whose loss is not finite, or that does not fit into memory even by itself,
fails alone.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from cluster.adapters import Adapter, Trained
from cluster.frozen import Frozen
from cluster.packing.changes import Changes, SoftPrompt
from cluster.packing.pack import Pack
from cluster.packing.planner import Planner, is_out_of_memory
from cluster.packing.reading import Reading
from cluster.shards.shard import ALONE, Shard
from cluster.training import IGNORED, Lesson, Row, finite_loss, mean_of_last, training_rows


@dataclass
class Job:
    """An adapter that is to be trained up to step `until`.

    Attributes:
        adapter: detached from its model.
        changes: what it changes there.
        lesson: what it learns from.
        until: the step at which it ends.
        step: the next one.
        losses: of each step, in nats.
        tokens: that it has seen.
        seconds: its share of the time, by tokens.
        error: why it can't go on.
    """

    adapter: Adapter
    changes: Changes
    lesson: Lesson
    until: int
    step: int = field(init=False)
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.step = self.adapter.steps

    @property
    def trained(self) -> Trained:
        """Return what the training did."""
        return Trained(self.adapter.steps, mean_of_last(self.losses), self.tokens)


def train_pack(frozen: Frozen, jobs: Sequence[Job], planner: Planner, shard: Shard = ALONE) -> None:
    """Train all adapters up to their last steps; what went wrong with one is in its `error`."""
    while active := [job for job in jobs if job.error is None and job.step < job.until]:
        ready = [_Step(job, rows) for job in active if (rows := _begun(frozen, job))]
        # Rows of like width together, because shorter ones are padded.
        ready.sort(key=_Step.width)
        for part in planner.split(ready, _Step.size):
            began = time.monotonic()
            _gradients(frozen, part, planner, shard)
            for step in part:
                if step.job.error is None:
                    weights = step.job.adapter.weights.values()
                    shard.sum_gradients([weight.grad for weight in weights])
                    step.job.adapter.end_step(step.job.step)
                step.job.step += 1
            seconds, tokens = time.monotonic() - began, sum(map(_Step.size, part))
            for step in part:
                step.job.tokens += step.size()
                step.job.seconds += seconds * step.size() / tokens
    for job in jobs:
        if job.error is None:
            job.adapter.finish(job.until)


@dataclass
class _Step:
    """A job's next step with its rows."""

    job: Job
    rows: list[Row]

    def size(self) -> int:
        """Return its tokens."""
        return sum(len(question) + len(answer) for question, answer in self.rows)

    def width(self) -> int:
        """Return the tokens of the longest row."""
        return max(len(question) + len(answer) for question, answer in self.rows)


def _begun(frozen: Frozen, job: Job) -> list[Row]:
    """Return the rows of a job's next step, none if it can't go on."""
    try:
        rows = _rows(frozen, job, job.step)
    except ValueError as error:
        job.error = error
        return []
    job.adapter.begin_step(job.step)
    return rows


def _rows(frozen: Frozen, job: Job, step: int) -> list[Row]:
    rows = training_rows(frozen, job.lesson, job.adapter.spec, step)
    soft = job.changes.get("")
    if isinstance(soft, SoftPrompt):
        places = [-1 - i for i in range(len(soft.vectors()))]
        return [(places + question, answer) for question, answer in rows]
    return rows


def _gradients(frozen: Frozen, steps: Sequence[_Step], planner: Planner, shard: Shard) -> None:
    """Leave the gradients of a step with each adapter; halve the pass where memory runs out."""
    try:
        _pass(frozen, steps, shard)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # The error holds the pass's tensors; they are gone when this block is left.
        message = str(error)
    else:
        return
    planner.ran_out(sum(map(_Step.size, steps)))
    for step in steps:
        for weight in step.job.adapter.weights.values():
            weight.grad = None
    if len(steps) == 1:
        steps[0].job.error = MemoryError(f"a training step does not fit into memory: {message}")
        return
    half = len(steps) // 2
    _gradients(frozen, steps[:half], planner, shard)
    _gradients(frozen, steps[half:], planner, shard)


def _pass(frozen: Frozen, steps: Sequence[_Step], shard: Shard) -> None:
    jobs, rows = [step.job for step in steps], [step.rows for step in steps]
    device = frozen.model.device
    slot_of = [slot for slot, own in enumerate(rows) for _ in own]
    whole = [row for own in rows for row in own]
    # A token at the very beginning has nothing that could predict it.
    counts = torch.tensor(
        [sum(len(answer) - (not question) for question, answer in own) for own in rows],
        device=device,
    )
    here = range(len(whole))
    if shard.splits_rows:
        here, whole = _share(whole, shard)
    own_slots = [slot_of[i] if i < len(slot_of) else 0 for i in here]
    logits, labels = _predict(frozen, jobs, [whole[i] for i in here], own_slots, shard)
    places = (labels != IGNORED).nonzero(as_tuple=True)
    each = torch.nn.functional.cross_entropy(
        logits[places].float(), labels[places], reduction="none"
    )
    slots = torch.tensor(own_slots, device=device)
    zeros = torch.zeros(len(jobs), device=device)
    losses = zeros.index_add(0, slots[places[0]], each) / counts
    values = shard.sum(losses.detach()).tolist()
    for job, value in zip(jobs, values, strict=True):
        try:
            job.losses.append(finite_loss(value, job.step))
        except FloatingPointError as error:
            job.error = error
    # Rows do not mix, so a loss that is not finite is left out and spoils no other's gradients.
    finite = [loss for loss, value in zip(losses, values, strict=True) if math.isfinite(value)]
    if finite:
        torch.autograd.backward(torch.stack(finite).sum())


def _predict(
    frozen: Frozen, jobs: Sequence[Job], rows: Sequence[Row], slots: Sequence[int], shard: Shard
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and the ids they should point at, shape [rows, longest answer] both.

    Rows are padded on the left, so that the answers are last in all of them and no logits of
    questions are computed.
    """
    pad, device = frozen.tokenizer.pad_token_id, frozen.model.device
    longest = max(len(answer) for _, answer in rows)
    told = [answer if question else answer[1:] for question, answer in rows]
    labels = [[IGNORED] * (longest - len(ids)) + ids for ids in told]
    questions = [(slot, question) for slot, (question, _) in zip(slots, rows, strict=True)]
    with Pack(frozen.model, [job.changes for job in jobs], shard) as pack:
        reading = Reading(pack, questions, pad, device)
        rest = reading.begin()
        with pack.rows(reading.slots):
            whole = [left + answer for left, (_, answer) in zip(rest, rows, strict=True)]
            logits = reading.read(whole, longest + 1)
    return logits[:, :-1], torch.tensor(labels, device=device)


def _share(rows: list[Row], shard: Shard) -> tuple[range, list[Row]]:
    """Return this rank's rows; every rank takes as many, so that all do the same passes.

    Where they do not divide, rows without an answer are added at the end.
    """
    missing = -len(rows) % shard.world_size
    padded = rows + [(rows[0][0] or rows[0][1], [])] * missing
    return range(shard.rank, len(padded), shard.world_size), padded
