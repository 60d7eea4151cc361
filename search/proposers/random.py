"""Random proposals: draws from the families, and finite lists in rounds from short to long.

Random draws: a run's fixed list, and draws without end for proposers that fall back on them.

A finite list of candidates in rounds, each from short to long.

An upper bound of a candidate's length is known before training. With short candidates first, a
longer one meets incumbents that it has to beat; and because every round covers all lengths, a run
that ends early has tried some of each.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from kilobit.search.candidate import Candidate
from kilobit.search.proposers.proposer import Observation, Proposal, Proposer
from kilobit.search.settings import Config
from kilobit.search.space import (
    MAX_FRUITLESS_DRAWS,
    Families,
    PromptFamily,
    draw_candidate,
    draw_candidates,
)
from kilobit.search.streams import stream
from kilobit.search.task import Task

ROUND = 16


class RandomProposer(Config):
    """Random draws from the families, as many as their `candidates` say."""

    kind: Annotated[Literal["random"], Field(description="independent draws")] = "random"


class RandomDraws:
    """Propose the candidates of `kilobit.search.space.draw_candidates`, in its order."""

    def __init__(self, families: Families, task: Task, models: Sequence[str], seed: int) -> None:
        self._families, self._task, self._seed = families, task, seed
        self._queues: dict[str, deque[Candidate] | None] = dict.fromkeys(models)
        self._known: set[str] = set()

    def propose(self, model: str) -> Proposal | None:
        """Return the model's next draw, None after the last."""
        queue = self._queues[model]
        if queue is None:
            queue = deque(draw_candidates(self._families, self._task, [model], self._seed))
            self._queues[model] = queue
        while queue:
            candidate = queue.popleft()
            if candidate.id not in self._known:
                return Proposal(candidate, "random")
        return None

    def observe(self, observation: Observation) -> None:
        """Mark the candidate as known; nothing else is learned."""
        self._known.add(observation.candidate)


def searched(families: Families) -> dict[str, PromptFamily]:
    """Return the families that take part: those with `candidates` above 0."""
    return {name: family for name, family in families.named().items() if family.candidates}


def first_candidate(
    families: Mapping[str, PromptFamily], task: Task, model: str
) -> Candidate | None:
    """Return the candidate that adds nothing to the model, None if prompts are not searched."""
    return families["prompt"].bare(task, model) if "prompt" in families else None


def draw_new(
    families: Mapping[str, PromptFamily],
    task: Task,
    model: str,
    rng: random.Random,
    taken: Container[str],
) -> Candidate | None:
    """Return a random candidate that is not taken, None if the space seems used up.

    A family is drawn in proportion to its `candidates`.
    """
    names = list(families)
    weights = [family.candidates for family in families.values()]
    for _ in range(MAX_FRUITLESS_DRAWS):
        (name,) = rng.choices(names, weights)
        candidate = draw_candidate(name, families[name], task, model, rng)
        if candidate.id not in taken:
            return candidate
    return None


def demonstration_set(task: Task, seed: int, count: int, index: int) -> tuple[tuple[str, str], ...]:
    """Return set number `index` of `count` demonstrations, the same for all models."""
    examples = stream(seed, "demonstrations", count, index).sample(task.splits.train, count)
    return tuple((example.input, example.target) for example in examples)


class ShortFirst:
    """Another proposer's candidates in the order of their lengths, in rounds of about `ROUND`.

    Args:
        proposer: a proposer of a finite list that learns nothing from results.
        bound_bits: an upper bound of a candidate's length; None counts as the longest.
    """

    def __init__(self, proposer: Proposer, bound_bits: Callable[[Candidate], int | None]) -> None:
        self._proposer, self._bound_bits = proposer, bound_bits
        self._queues: dict[str, deque[Proposal]] = {}

    def propose(self, model: str) -> Proposal | None:
        """Return the next candidate of `model`."""
        if model not in self._queues:
            self._queues[model] = deque(self._ordered(model))
        queue = self._queues[model]
        return queue.popleft() if queue else None

    def observe(self, observation: Observation) -> None:
        """Pass a result to the wrapped proposer."""
        self._proposer.observe(observation)

    def _ordered(self, model: str) -> list[Proposal]:
        found: list[Proposal] = []
        while (proposal := self._proposer.propose(model)) is not None:
            found.append(proposal)
        bounds = {p.candidate.id: self._bound_bits(p.candidate) for p in found}

        def length(proposal: Proposal) -> float:
            bound = bounds[proposal.candidate.id]
            return math.inf if bound is None else bound

        found.sort(key=length)
        rounds = max(1, len(found) // ROUND)
        return [proposal for first in range(rounds) for proposal in found[first::rounds]]
