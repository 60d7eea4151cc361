"""Random draws: a run's fixed list, and draws without end for proposers that fall back on them."""

import random
from collections import deque
from collections.abc import Container, Mapping, Sequence

from evaluators.metrics import Example
from evaluators.streams import stream
from evaluators.task import Task
from search.candidate import Candidate
from search.proposers.contract import Observation, Proposal
from search.space import Families, PromptFamily, draw_candidate, draw_candidates

# After this many draws in a row that are all known, the space counts as used up.
_MAX_FRUITLESS_DRAWS = 200


class RandomDraws:
    """Propose the candidates of `search.space.draw_candidates`, in its order."""

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
    return Candidate(task=task.name, model=model) if "prompt" in families else None


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
    for _ in range(_MAX_FRUITLESS_DRAWS):
        (name,) = rng.choices(names, weights)
        candidate = draw_candidate(name, families[name], task, model, rng)
        if candidate.id not in taken:
            return candidate
    return None


def demonstration_set(task: Task, seed: int, count: int, index: int) -> list[Example]:
    """Return set number `index` of `count` demonstrations, the same for all models."""
    rng = stream(seed, "demonstrations", count, index)
    return rng.sample(task.splits.train, count)


def as_shown(examples: Sequence[Example]) -> tuple[tuple[str, str], ...]:
    """Return examples as the demonstrations of a prompt."""
    return tuple((example.input, example.target) for example in examples)
