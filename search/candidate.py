"""A candidate: everything that decides what a program does, as canonical JSON.

The canonical form has sorted keys, no white space and only what differs from no program at all.
Its hash is the candidate's id, so equal candidates have the same id on every machine.
"""

import hashlib
import json
from typing import Annotated

from pydantic import Field

from evaluators.config import Config
from evaluators.task import Task
from search.adapter import AdapterSpec
from search.programs.postprocess import PostprocessStep


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


class Candidate(Config):
    """One program to try on one base model and one task."""

    task: str
    model: str
    prompt: Prompt = Prompt()
    adapter: AdapterSpec | None = None
    chat: bool = False
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

    def trained(self) -> "Candidate":
        """Return the candidate whose training this one uses, itself unless coded otherwise."""
        if self.adapter is None:
            return self
        return self.model_copy(update={"adapter": self.adapter.trained()})

    @property
    def id(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]
