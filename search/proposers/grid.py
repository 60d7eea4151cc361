"""All combinations of the values that the families list.

A learning rate has `points` values on its logarithmic axis, a number of demonstrations `sets`
seeded sets, and a family's adapters share one seed. The combinations come in an order that the seed
decides, so that a search that ends early has seen a bit of everything.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Annotated, Any, Literal

from pydantic import Field

from kilobit.search.adapter_methods import PRICED, AdapterSpec
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.postprocess import PostprocessStep
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.proposers.random import demonstration_set, first_candidate, searched
from kilobit.search.settings import Config
from kilobit.search.space import AdapterFamily, Families, LogRange, PromptFamily
from kilobit.search.streams import stream
from kilobit.search.task import Task

Axes = dict[str, list[Any]]


Sets = Annotated[
    int,
    Field(ge=1, le=1000, description="seeded sets of demonstrations to choose from, of each size"),
]


class GridProposer(Config):
    """All combinations of the values that the families list, at most `candidates` of each."""

    kind: Annotated[Literal["grid"], Field(description="all combinations of the listed values")]
    points: Annotated[
        int, Field(ge=1, le=100, description="values of a learning rate, on a logarithmic axis")
    ] = 3
    sets: Sets = 4


class Grid:
    """Propose the combinations of all families, shuffled, the one that adds nothing first."""

    def __init__(
        self,
        config: GridProposer,
        families: Families,
        task: Task,
        models: Sequence[str],
        seed: int,
    ) -> None:
        self._families, self._task, self._seed = searched(families), task, seed
        self._axes = {name: axes(f, config, seed, name) for name, f in self._families.items()}
        self._remaining = {model: self._combinations(model) for model in models}
        self._taken: set[str] = set()

    def propose(self, model: str) -> Proposal | None:
        """Return the next combination that is not known, None after the last."""
        for candidate in self._remaining[model]:
            if candidate.id not in self._taken:
                self._taken.add(candidate.id)
                return Proposal(candidate, "grid")
        return None

    def observe(self, observation: Observation) -> None:
        """Mark the candidate as known; nothing else is learned."""
        self._taken.add(observation.candidate)

    def _combinations(self, model: str) -> Iterator[Candidate]:
        order = []
        for name, family in self._families.items():
            total = math.prod(map(len, self._axes[name].values()))
            chosen = stream(self._seed, "grid", model, name).sample(
                range(total), min(total, family.candidates)
            )
            order += [(name, index) for index in chosen]
        stream(self._seed, "grid order", model).shuffle(order)
        bare = first_candidate(self._families, self._task, model)
        if bare is not None:
            yield bare
        for name, index in order:
            yield self._candidate(name, index, model)

    def _candidate(self, name: str, index: int, model: str) -> Candidate:
        chosen = {}
        for axis, values in self._axes[name].items():
            index, position = divmod(index, len(values))
            chosen[axis] = values[position]
        count, number = chosen.pop("demonstrations")
        shown = demonstration_set(self._task, self._seed, count, number)
        prompt = Prompt(instruction=chosen.pop("instruction"), demonstrations=shown)
        chat = chosen.pop("chat")
        about = {key: chosen.pop(key) for key in ("max_new_tokens", "postprocess")}
        adapter = None
        if chosen:
            training, price = chosen.pop("training")
            adapter = AdapterSpec(method=name, training=training, nats_per_kbit=price, **chosen)
        found = Candidate(
            task=self._task.name, model=model, prompt=prompt, adapter=adapter, **about
        )
        return self._families[name].in_chat(found, chat)


def axes(family: PromptFamily, config: GridProposer, seed: int, name: str) -> Axes:
    """Return the values of each axis of a family, without repetitions."""
    found: Axes = {
        "instruction": unique(family.instructions),
        "demonstrations": [
            (count, number)
            for count in unique(family.demonstrations)
            for number in range(config.sets if count else 1)
        ],
        "chat": unique(family.chats),
        "max_new_tokens": unique(family.max_new_tokens),
        "postprocess": unique(_step_lists(family)),
    }
    if isinstance(family, AdapterFamily):
        found |= {field: unique(values) for field, values in family.shapes().items()}
        found["learning_rate"] = log_points(family.rates(name), config.points)
        found["relative"] = [family.relative]
        found["ratio"] = [family.rate_ratio(name)]
        found["steps"] = unique(family.steps)
        found["batch_size"] = [family.batch_size]
        found["seed"] = [stream(seed, "grid seed", name).randrange(1 << 31)]
        found["training"] = [
            (training, price)
            for training in unique(family.training)
            for price in (unique(family.nats_per_kbit) if training in PRICED else [None])
        ]
    return found


def unique(values: Sequence[Any]) -> list[Any]:
    """Return the values without repetitions, in their order."""
    return list(dict.fromkeys(values))


def log_points(values: LogRange, points: int) -> list[float]:
    """Return `points` values from low to high by equal factors; a single value is in the middle."""
    if points == 1:
        found = [math.sqrt(values.low * values.high)]
    else:
        factor = values.high / values.low
        found = [values.low * factor ** (i / (points - 1)) for i in range(points)]
    return unique([two_digits(value) for value in found])


def two_digits(value: float) -> float:
    """Return a number rounded to two significant digits, so that a person can type it."""
    return float(f"{value:.1e}")


def _step_lists(family: PromptFamily) -> list[tuple[PostprocessStep, ...]]:
    most = min(family.postprocess_most, len(family.postprocess_combine))
    more = [steps for n in range(most + 1) for steps in permutations(family.postprocess_combine, n)]
    return [listed + steps for listed in family.postprocess for steps in more]
