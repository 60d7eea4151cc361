"""A candidate: everything that decides what a program does, as canonical JSON.

The canonical form has sorted keys, no white space and only what differs from no program at all.
Its hash is the candidate's id, so equal candidates have the same id on every machine.
"""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field

from evaluators.config import Config
from evaluators.task import Task
from search.programs.postprocess import STEPS

PostprocessStep = Literal["last_number", "last_word", "first_word", "lower", "no_final_period"]
assert PostprocessStep.__args__ == STEPS  # type: ignore[attr-defined]


class Prompt(Config):
    """Text before the question: an instruction line and demonstrations as (input, target) pairs."""

    instruction: str = ""
    demonstrations: tuple[tuple[str, str], ...] = ()

    def render(self, task: Task) -> str:
        """Return the text that precedes the question of `task`; empty if there is no prompt."""
        head = self.instruction + "\n" if self.instruction else ""
        return head + "".join(
            task.ask(text) + task.show(target) for text, target in self.demonstrations
        )


class LoraSpec(Config):
    """A LoRA adapter and how it is trained (Hu et al. 2021), by PEFT."""

    method: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1)]
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)]
    layers: tuple[int, ...] | None = None
    learning_rate: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]


class Candidate(Config):
    """One program to try on one base model and one task."""

    task: str
    model: str
    prompt: Prompt = Prompt()
    adapter: LoraSpec | None = None
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None
    postprocess: tuple[PostprocessStep, ...] = ()

    @property
    def family(self) -> str:
        """Return `prompt` or the method of the adapter."""
        return self.adapter.method if self.adapter else "prompt"

    def canonical(self) -> str:
        """Return the canonical JSON of this candidate."""
        spec = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def id(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]
