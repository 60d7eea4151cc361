"""A candidate: all settings that determine a program, as canonical JSON.

The canonical form has sorted keys, no white space and only values that differ from the defaults.
Its hash is the candidate's id, so equal candidates have the same id on every machine.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from evaluators.config import Config
from evaluators.task import Task
from search.adapter import AdapterSpec
from search.programs.postprocess import PostprocessStep
from search.rungs import Rung


class Prompt(Config):
    """Text before the question: an instruction line and demonstrations as (input, target) pairs."""

    instruction: str = ""
    demonstrations: tuple[tuple[str, str], ...] = ()

    def lead(self) -> str:
        """Return the text before the first demonstration."""
        return self.instruction + "\n" if self.instruction else ""

    def indices(self, task: Task) -> bytes | None:
        """Return the demonstrations' indices in the train split, 2 bytes each, big-endian.

        None if there are no demonstrations, one is not in the split, or an index exceeds 65,535.
        """
        place = {(e.input, e.target): i for i, e in enumerate(task.splits.train)}
        found = [place.get(shown, 1 << 16) for shown in self.demonstrations]
        if not found or max(found) >= 1 << 16:
            return None
        return b"".join(i.to_bytes(2, "big") for i in found)

    def render(self, task: Task) -> str:
        """Return the text that precedes the question of `task`; empty if there is no prompt."""
        return self.lead() + "".join(
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

    def trained_at(self, rungs: Sequence[Rung]) -> int:
        """Return the index of the rung after which this candidate is not trained any further.

        For a prompt this is the first rung; for an adapter with more steps than the ladder, the
        last one.
        """
        steps = self.adapter.steps if self.adapter else 0
        return next((r.index for r in rungs if r.train_steps >= steps), len(rungs) - 1)

    def canonical(self) -> str:
        """Return the canonical JSON of this candidate."""
        spec = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def id(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]
