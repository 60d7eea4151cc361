"""Batches of training steps: examples as token ids, with labels on the answers only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kilobit.evaluators.model.base_model import FrozenModel, check_ids
from kilobit.evaluators.model.generate import asked, chat_template
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.streams import stream
from kilobit.search.task import Example, Task

IGNORED = -100
Row = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Lesson:
    """Training data of an adapter: answers after a prompt and their questions.

    Attributes:
        task: gives the templates.
        prompt: the text before the question.
        examples: the examples that a step draws from.
        chat: the question goes into the model's chat template.
        turns: the text between the prompt's turns there; empty if it is in the question's turn.
    """

    task: Task
    prompt: str
    examples: Sequence[Example]
    chat: bool = False
    turns: str = ""


def training_batch(
    frozen: FrozenModel, lesson: Lesson, spec: AdapterSpec, step: int
) -> dict[str, torch.Tensor]:
    """Return ids, mask and labels of shape [batch, longest], drawn by seed and step.

    Raises:
        ValueError: if an example does not fit into the model's context.
    """
    rows = training_rows(frozen, lesson, spec, step)
    return _right_padded(rows, frozen.tokenizer.pad_token_id, frozen.model.device)


def training_rows(frozen: FrozenModel, lesson: Lesson, spec: AdapterSpec, step: int) -> list[Row]:
    """Return the rows of a step: the ids before the answer and the ids of the answer.

    Raises:
        ValueError: if an example does not fit into the model's context.
    """
    rng = stream(spec.seed, "batch", step)
    chosen = rng.choices(lesson.examples, k=spec.batch_size)
    return [_example_tokens(frozen, lesson, example) for example in chosen]


def _example_tokens(frozen: FrozenModel, lesson: Lesson, example: Example) -> Row:
    task = lesson.task
    before = lesson.prompt, lesson.turns
    text = asked(frozen, lesson.chat, task.question, example.input, *before)
    if lesson.chat:
        # A program answers after the thinking, which is empty here.
        text += chat_template(frozen).close
    special = frozen.special_tokens and not lesson.chat
    question = frozen.tokenizer(text, add_special_tokens=special)["input_ids"]
    said = task.show(example.target)
    if lesson.chat and task.choice is not None:
        # A program that chooses in a chat puts nothing before an answer.
        said = said.removeprefix(task.choice.delimiter)
    answer = frozen.tokenizer(said, add_special_tokens=False)["input_ids"]
    ends = any(stop in said for stop in task.stop)
    if not ends and frozen.tokenizer.eos_token_id is not None:
        answer = [*answer, frozen.tokenizer.eos_token_id]
    check_ids(frozen, (*question, *answer))
    room = len(question) + len(answer)
    if frozen.context is not None and room > frozen.context:
        raise ValueError(
            f"a training example of {room} tokens does not fit into the model's context of "
            f"{frozen.context} tokens: {example.input[:60]!r}"
        )
    return question, answer


def _right_padded(rows: Sequence[Row], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return ids, mask and labels of shape [rows, longest]; labels are on the answers only."""
    width = max(len(question) + len(answer) for question, answer in rows)
    ids, mask, labels = [], [], []
    for question, answer in rows:
        gap = width - len(question) - len(answer)
        ids.append(question + answer + [pad] * gap)
        mask.append([1] * (width - gap) + [0] * gap)
        labels.append([IGNORED] * len(question) + answer + [IGNORED] * gap)
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
        "labels": torch.tensor(labels, device=device),
    }


def finite_loss(loss: float, step: int) -> float:
    """Return `loss` after checking it.

    Raises:
        FloatingPointError: if it is not finite.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(f"the training loss became {loss} at step {step}")
    return loss


def mean_of_last(losses: Sequence[float]) -> float | None:
    """Return the mean of the last ten losses, None if there is none."""
    last = losses[-10:]
    return sum(last) / len(last) if last else None
