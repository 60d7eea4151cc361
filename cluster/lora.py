"""LoRA through PEFT on a resident base model: put on, train, take its numbers, take off.

The base weights are never written. `installed` removes the adapter on every way out, and the caller
compares the digest of the base model afterwards.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from cluster.frozen import Frozen
from cluster.generation import prompt_tokens
from evaluators.metrics import Example
from evaluators.streams import stream, stream_seed
from evaluators.task import Task
from search.candidate import LoraSpec
from search.programs.payload import AdapterFile

_SCALING = 2
_WARM_UP_STEPS = 5
_IGNORED = -100


@dataclass
class Trained:
    """What a stretch of training did: steps so far, mean loss of the last steps, tokens seen."""

    steps: int
    loss: float | None
    tokens: int


class Lora:
    """A LoRA adapter on a model, with its optimizer."""

    def __init__(self, peft_model: Any, spec: LoraSpec) -> None:
        self.spec, self.steps = spec, 0
        self._model = peft_model
        self._weights = {
            name: parameter
            for name, parameter in sorted(peft_model.named_parameters())
            if parameter.requires_grad
        }
        self._optimizer = torch.optim.AdamW(
            self._weights.values(), lr=spec.learning_rate, weight_decay=0.0
        )

    def train(
        self, frozen: Frozen, task: Task, prompt: str, train: Sequence[Example], until: int
    ) -> Trained:
        """Train up to step `until` on answers after `prompt` and their questions.

        A step's examples depend on the seed and the step's number alone, so training in stretches
        gives what training at once gives.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        tokens, losses = 0, []
        for step in range(self.steps, until):
            rng = stream(self.spec.seed, "batch", step)
            rows = [
                _example_tokens(frozen, task, prompt, example)
                for example in rng.choices(train, k=self.spec.batch_size)
            ]
            ids, mask, labels = _right_padded(rows, frozen.tokenizer.pad_token_id)
            device = frozen.model.device
            loss = self._model(
                input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)
            ).loss
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"the training loss became {value} at step {step}")
            decay = 1 - step / self.spec.steps
            for group in self._optimizer.param_groups:
                group["lr"] = self.spec.learning_rate * min(decay, (step + 1) / _WARM_UP_STEPS)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            tokens += int(mask.sum())
            losses.append(value)
        self.steps = max(self.steps, until)
        last = losses[-10:]
        return Trained(self.steps, sum(last) / len(last) if last else None, tokens)

    def values(self) -> npt.NDArray[np.float16]:
        """Return all numbers in the order of their names, shape [num_parameters]."""
        flat = [w.detach().cpu().to(torch.float16).reshape(-1) for w in self._weights.values()]
        numbers: npt.NDArray[np.float16] = torch.cat(flat).numpy()
        return numbers

    def file(self) -> AdapterFile:
        """Return the adapter as a payload stores it."""
        header: dict[str, Any] = {"r": self.spec.rank, "m": list(self.spec.target_modules)}
        if self.spec.layers is not None:
            header["l"] = list(self.spec.layers)
        return AdapterFile(header, self.values())

    @torch.no_grad()
    def assign(self, values: npt.NDArray[np.float16]) -> None:
        """Set all numbers from `values`, shape [num_parameters].

        Raises:
            ValueError: if there are more or fewer than the adapter has.
        """
        total = sum(weight.numel() for weight in self._weights.values())
        if len(values) != total:
            raise ValueError(f"the adapter has {total} numbers, the payload holds {len(values)}")
        flat, at = torch.from_numpy(values.astype(np.float32)), 0
        for weight in self._weights.values():
            part = flat[at : at + weight.numel()].view(weight.shape)
            weight.copy_(part.to(device=weight.device, dtype=weight.dtype))
            at += weight.numel()

    def state(self) -> bytes:
        """Return numbers, optimizer moments and step as safetensors bytes."""
        tensors = {"steps": torch.tensor(self.steps)}
        for name, weight in self._weights.items():
            tensors[f"weight/{name}"] = weight.detach().cpu().contiguous()
            for key, moment in self._optimizer.state.get(weight, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(moment).detach().cpu().contiguous()
        return save_tensors(tensors)

    @torch.no_grad()
    def restore(self, state: bytes) -> None:
        """Take up what `state` returned.

        Raises:
            ValueError: if the state belongs to another adapter.
        """
        tensors = load_tensors(state)
        if {f"weight/{name}" for name in self._weights} != {
            name for name in tensors if name.startswith("weight/")
        }:
            raise ValueError("the saved state belongs to another adapter")
        for name, weight in self._weights.items():
            weight.copy_(tensors[f"weight/{name}"].to(weight.device))
            moments = {
                key: tensors[f"{key}/{name}"].to("cpu" if key == "step" else weight.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
            if moments:
                self._optimizer.state[weight] = moments
        self.steps = int(tensors["steps"])


@contextmanager
def installed(frozen: Frozen, spec: LoraSpec) -> Iterator[Lora]:
    """Put an untrained LoRA on the model and take it off again, whatever happens."""
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=_SCALING * spec.rank,
        target_modules=list(spec.target_modules),
        layers_to_transform=list(spec.layers) if spec.layers is not None else None,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(spec.seed, "init"))
        peft_model = get_peft_model(frozen.model, config)
    try:
        yield Lora(peft_model, spec)
    finally:
        peft_model.unload()
        # PEFT leaves its configuration on the model; a second adapter would warn about the first.
        if hasattr(frozen.model, "peft_config"):
            del frozen.model.peft_config
        frozen.model.requires_grad_(False)


def _example_tokens(
    frozen: Frozen, task: Task, prompt: str, example: Example
) -> tuple[list[int], list[int]]:
    """Return the ids before the answer and those of the answer."""
    question = prompt_tokens(frozen, prompt + task.ask(example.input))
    answer = frozen.tokenizer(task.show(example.target), add_special_tokens=False)["input_ids"]
    ends = any(stop in task.show(example.target) for stop in task.stop)
    if not ends and frozen.tokenizer.eos_token_id is not None:
        answer = [*answer, frozen.tokenizer.eos_token_id]
    room = len(question) + len(answer)
    if frozen.context is not None and room > frozen.context:
        raise ValueError(
            f"a training example of {room} tokens does not fit into the model's context of "
            f"{frozen.context} tokens: {example.input[:60]!r}"
        )
    return question, answer


def _right_padded(
    rows: Sequence[tuple[list[int], list[int]]], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, mask and labels of shape [len(rows), longest row]; only answers have labels."""
    width = max(len(question) + len(answer) for question, answer in rows)
    ids, mask, labels = [], [], []
    for question, answer in rows:
        gap = width - len(question) - len(answer)
        ids.append(question + answer + [pad] * gap)
        mask.append([1] * (width - gap) + [0] * gap)
        labels.append([_IGNORED] * len(question) + answer + [_IGNORED] * gap)
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)
