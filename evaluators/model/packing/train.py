"""Training of many adapters at once: one forward and one backward pass for a step of all of them.

Each keeps its own optimizer, examples, learning rate and number of steps. Its loss is the mean over
its own answers' tokens, so its gradients are those that it would have alone; only the order of
float sums differs. An adapter fails alone if its loss is not finite, or if it does not fit into
memory even alone.
"""

import math
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from kilobit.evaluators.model.adapters import Adapter, Trained
from kilobit.evaluators.model.base_model import FrozenModel, Shard
from kilobit.evaluators.model.packing.deltas import Changes, SoftPrompt
from kilobit.evaluators.model.packing.forward import Reading
from kilobit.evaluators.model.packing.pack import Pack
from kilobit.evaluators.model.packing.passes import Planner, is_out_of_memory
from kilobit.evaluators.model.training_batches import (
    IGNORED,
    Lesson,
    Row,
    finite_loss,
    mean_of_last,
    training_rows,
)


@dataclass
class Job:
    """An adapter to train up to step `until`.

    Attributes:
        adapter: detached from its model.
        changes: its changes to the model.
        lesson: its training data.
        until: the step at which it ends.
        step: the next step.
        losses: loss of each step, in nats.
        tokens: number of tokens seen.
        seconds: its share of the time, by tokens.
        error: the error that ended its training early.
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
        """Return the statistics of the training."""
        return Trained(self.adapter.steps, mean_of_last(self.losses), self.tokens)


def train_pack(frozen: FrozenModel, jobs: Sequence[Job], planner: Planner) -> None:
    """Train all adapters up to their last steps; a failure of one is stored as its `error`."""
    while active := [job for job in jobs if job.error is None and job.step < job.until]:
        ready = [_Step(job, rows) for job in active if (rows := _begun(frozen, job))]
        # Put steps of similar width into one pass, because shorter rows are padded.
        ready.sort(key=_Step.width)
        for part in planner.split(ready, _Step.size):
            began = time.monotonic()
            _gradients(frozen, part, planner)
            for step in part:
                if step.job.error is None:
                    weights = step.job.adapter.weights.values()
                    frozen.shard.sum_gradients(list(weights))
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
    """Next step of a job, with its rows."""

    job: Job
    rows: list[Row]

    def size(self) -> int:
        """Return the number of tokens of all rows."""
        return sum(len(question) + len(answer) for question, answer in self.rows)

    def width(self) -> int:
        """Return the number of tokens of the longest row."""
        return max(len(question) + len(answer) for question, answer in self.rows)


def _begun(frozen: FrozenModel, job: Job) -> list[Row]:
    """Begin a job's next step and return its rows, none if it failed."""
    try:
        rows = _rows(frozen, job, job.step)
    except ValueError as error:
        job.error = error
        return []
    job.adapter.begin_step(job.step)
    return rows


def _rows(frozen: FrozenModel, job: Job, step: int) -> list[Row]:
    rows = training_rows(frozen, job.lesson, job.adapter.spec, step)
    soft = job.changes.get("")
    if isinstance(soft, SoftPrompt):
        vectors = [-1 - i for i in range(len(soft.vectors()))]
        return [(vectors + question, answer) for question, answer in rows]
    return rows


def _gradients(frozen: FrozenModel, steps: Sequence[_Step], planner: Planner) -> None:
    """Compute the gradients of each adapter's step; halve a pass that fails.

    A pass may run out of memory, and one adapter may raise any error, which is its own.
    """
    told = [len(step.job.losses) for step in steps]
    try:
        _pass(frozen, steps)
    except Exception as error:
        # The frames of the error reference the pass's tensors.
        traceback.clear_frames(error.__traceback__)
        failure = error
        if not planner.may_try_again(error):
            raise
    else:
        return
    if is_out_of_memory(failure):
        planner.ran_out(sum(map(_Step.size, steps)))
        failure = MemoryError(f"a training step does not fit into memory: {failure}")
    for step, count in zip(steps, told, strict=True):
        del step.job.losses[count:]
        for weight in step.job.adapter.weights.values():
            weight.grad = None
    if len(steps) == 1:
        steps[0].job.error = failure
        return
    half = len(steps) // 2
    _gradients(frozen, steps[:half], planner)
    _gradients(frozen, steps[half:], planner)


def _pass(frozen: FrozenModel, steps: Sequence[_Step]) -> None:
    jobs, rows = [step.job for step in steps], [step.rows for step in steps]
    device = frozen.model.device
    slot_of = [slot for slot, own in enumerate(rows) for _ in own]
    whole = [row for own in rows for row in own]
    # Without a question an answer's first token is not predicted, so it does not count.
    counts = torch.tensor(
        [sum(len(answer) - (not question) for question, answer in own) for own in rows],
        device=device,
    )
    here = range(len(whole))
    shard = frozen.shard
    if shard.splits_rows:
        here, whole = _share(whole, shard)
    own_slots = [slot_of[i] if i < len(slot_of) else 0 for i in here]
    logits, labels = _predict(frozen, jobs, [whole[i] for i in here], own_slots)
    positions = (labels != IGNORED).nonzero(as_tuple=True)
    each = torch.nn.functional.cross_entropy(
        logits[positions].float(), labels[positions], reduction="none"
    )
    slots = torch.tensor(own_slots, device=device)
    zeros = torch.zeros(len(jobs), device=device)
    losses = zeros.index_add(0, slots[positions[0]], each) / counts
    values = (shard.sum(losses) if shard.splits_rows else losses.detach()).tolist()
    for job, value in zip(jobs, values, strict=True):
        try:
            job.losses.append(finite_loss(value, job.step))
        except FloatingPointError as error:
            job.error = error
    # Rows are independent, so leaving out a loss that is not finite keeps other gradients intact.
    finite = [loss for loss, value in zip(losses, values, strict=True) if math.isfinite(value)]
    if finite:
        torch.autograd.backward(torch.stack(finite).sum())


def _predict(
    frozen: FrozenModel, jobs: Sequence[Job], rows: Sequence[Row], slots: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [rows, longest answer, vocabulary] and target ids [rows, longest answer].

    Rows are padded on the left, so that the answers are last in all of them and no logits of
    questions are computed.
    """
    pad, device = frozen.tokenizer.pad_token_id, frozen.model.device
    longest = max(len(answer) for _, answer in rows)
    told = [answer if question else answer[1:] for question, answer in rows]
    labels = [[IGNORED] * (longest - len(ids)) + ids for ids in told]
    questions = [(slot, question) for slot, (question, _) in zip(slots, rows, strict=True)]
    with Pack(frozen.model, [job.changes for job in jobs], frozen.shard) as pack:
        reading = Reading(pack, questions, pad, device)
        # Ranks with rows of their own have to run equally many passes, whatever their rows share.
        rest = reading.begin([answer for _, answer in rows], share=not frozen.shard.splits_rows)
        with pack.rows(reading.slots):
            logits = reading.read(rest, longest + 1)
    return logits[:, :-1], torch.tensor(labels, device=device)


def _share(rows: list[Row], shard: Shard) -> tuple[range, list[Row]]:
    """Return the indices of this rank's rows, and all rows padded to a multiple of the ranks.

    Every rank gets equally many rows, so that all run the same passes. Padding rows come last and
    have no answer.
    """
    missing = -len(rows) % shard.world_size
    padded = rows + [(rows[0][0] or rows[0][1], [])] * missing
    return range(shard.rank, len(padded), shard.world_size), padded
