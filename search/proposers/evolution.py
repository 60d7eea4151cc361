"""Evolution: candidates near the front are varied by operators that a bandit chooses.

After `fresh` random draws every proposal begins with the bandit's choice of an operator, one of
which is a random draw. The parent comes from the front, or the layer behind it, at the highest rung
with enough members, spread over lengths. A child's operator is charged the seconds of all the
child's rungs and credited with the hypervolume (score against log2 of bits) that the child adds to
the front of finished candidates; a coarser program made from the child counts for the same
operator. The first random draws count for no operator.

Of a candidate that has ended little more than its id is kept, unless it is near the front.
Only results of the same rung are compared. Of each rung the front and the second layer (the front
of the rest) are kept and all other results dropped, so the state does not grow with their number.

Choose the next operator by its gain per second, with Thompson sampling.

Improvements of the front are rare events of different size. An operator's rate of improvements per
second of compute has a Gamma distribution, updated as for a Poisson process (Thompson sampling as
in Chapelle and Li 2011); all records fade by a constant factor with each result, because an
operator that helped early need not help late (Raj and Kalyani 2017, arXiv 1707.09727). An event of
mean size counts one, and the prior is one event at the rate of all operators together, so neither
unit nor scale matters.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from kilobit.search.candidate import Candidate
from kilobit.search.front.pareto import hypervolume, log2_bits, pareto_front
from kilobit.search.proposers.operators_adapter import ADAPTER_OPERATORS
from kilobit.search.proposers.operators_prompt import PROMPT_OPERATORS, Surroundings, make_corpus
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.proposers.random import draw_new, first_candidate, searched
from kilobit.search.settings import Config
from kilobit.search.space import Families
from kilobit.search.streams import stream
from kilobit.search.task import Task

OPERATORS = {**PROMPT_OPERATORS, **ADAPTER_OPERATORS}
RANDOM = "random"
# Limits of the search for a new child: where all near candidates are known, a draw is better.
_MAX_OPERATORS = 8
_MAX_PARENTS = 2
_MAX_STEPS = 3
# A rung with fewer members than this is too sparse to choose parents from.
_ENOUGH_MEMBERS = 4


class EvolutionProposer(Config):
    """Variations of candidates near the front, by operators chosen by their past gains."""

    kind: Annotated[Literal["evolution"], Field(description="candidates near the front are varied")]
    fresh: Annotated[int, Field(ge=1, description="random draws before it begins")] = 16
    discount: Annotated[
        float,
        Field(gt=0, le=1, description="factor by which each result fades the operators' records"),
    ] = 0.99


@dataclass(frozen=True)
class Member:
    """A candidate with its result at a rung; `candidate` is None if only its id is known."""

    name: str
    bits: int
    score: float
    candidate: Candidate | None

    @cached_property
    def length(self) -> float:
        """Return log2 of its bits."""
        return log2_bits(self.bits)


class Population:
    """The members of one base model by rung."""

    def __init__(self) -> None:
        self._rungs: dict[int, list[Member]] = {}

    def add(self, rung: int, member: Member) -> float:
        """Add a result and return its gain in hypervolume at its rung.

        The first result of a rung has nothing to be compared with and gains 0.
        """
        before = self._rungs.get(rung, [])
        first = pareto_front([*before, member])
        inside = {m.name for m in first}
        second = pareto_front(m for m in (*before, member) if m.name not in inside)
        self._rungs[rung] = first + second
        if not before or member.name not in inside:
            return 0.0
        return hypervolume(first) - hypervolume(before)

    def members(self) -> list[Member]:
        """Return the front and second layer of the highest rung with enough members."""
        known = {
            rung: [member for member in members if member.candidate is not None]
            for rung, members in sorted(self._rungs.items(), reverse=True)
        }
        enough = [found for found in known.values() if len(found) >= _ENOUGH_MEMBERS]
        return next(iter([*enough, *filter(None, known.values())]), [])


def pick(
    members: Iterable[Member], rng: random.Random, fit: Callable[[Member], bool] = lambda _: True
) -> Member | None:
    """Return a random member that fits, spread evenly over log2 of bits; None if none fits."""
    found = [member for member in members if fit(member)]
    if not found:
        return None
    lengths = [member.length for member in found]
    aim = rng.uniform(min(lengths), max(lengths))
    distances = [abs(length - aim) for length in lengths]
    nearest = min(distances)
    return rng.choice([m for m, d in zip(found, distances, strict=True) if d == nearest])


class Bandit:
    """The gains and seconds of some operators.

    Args:
        operators: their names.
        discount: what remains of all records after a result, in (0, 1].
    """

    def __init__(self, operators: Sequence[str], discount: float) -> None:
        self._discount = discount
        self._gain = dict.fromkeys(operators, 0.0)
        self._seconds = dict.fromkeys(operators, 0.0)
        self._num_gains = 0.0

    def order(self, rng: random.Random) -> list[str]:
        """Return the operators, the preferred one first, the others in case it can't be used.

        It draws one number per operator from `rng`.
        """
        mean_gain = sum(self._gain.values()) / self._num_gains if self._num_gains else 1.0
        all_seconds = sum(self._seconds.values())
        prior_seconds = all_seconds / max(self._num_gains, 1.0) or 1.0
        rates = {
            name: rng.gammavariate(1 + gain / mean_gain, 1 / (prior_seconds + self._seconds[name]))
            for name, gain in self._gain.items()
        }
        return sorted(rates, key=lambda name: -rates[name])

    def spend(self, operator: str, seconds: float) -> None:
        """Fade all records for a new result and charge its seconds to its operator."""
        for records in (self._gain, self._seconds):
            for name in records:
                records[name] *= self._discount
        self._num_gains *= self._discount
        self._seconds[operator] += seconds

    def reward(self, operator: str, gain: float) -> None:
        """Credit an operator with the improvement of the front by its candidate."""
        if gain > 0:
            self._gain[operator] += gain
            self._num_gains += 1


@dataclass
class _State:
    """The state of the search on one base model.

    Attributes:
        population: results near the fronts.
        bandit: records of the operators.
        count: proposals so far.
        operators: by id that is taken, the operator, None if the bandit did not choose it.
        running: candidates that have not ended.
    """

    population: Population
    bandit: Bandit
    count: int = 0
    operators: dict[str, str | None] = field(default_factory=dict)
    running: dict[str, Candidate] = field(default_factory=dict)


class Evolution:
    """Propose children of candidates near the front; see the module's text."""

    def __init__(
        self,
        config: EvolutionProposer,
        families: Families,
        task: Task,
        models: Sequence[str],
        seed: int,
    ) -> None:
        self._config, self._families, self._task = config, searched(families), task
        self._seed = seed
        self._around = Surroundings(
            self._families, task, make_corpus(self._families.values(), task)
        )
        names = [RANDOM, *OPERATORS]
        self._states = {
            model: _State(Population(), Bandit(names, config.discount)) for model in models
        }

    def propose(self, model: str) -> Proposal | None:
        """Return a child of a candidate near the front, or a random draw."""
        state = self._states[model]
        rng = stream(self._seed, self._config.kind, model, state.count)
        found = self._begin(state, model, rng)
        by_bandit = found is None
        found = found or self._vary(state, model, rng) or self._draw(state, model, rng)
        if found is None:
            return None
        name = found.candidate.id
        state.count += 1
        state.operators[name] = found.operator if by_bandit else None
        state.running[name] = found.candidate
        return found

    def observe(self, observation: Observation) -> None:
        """Charge and credit the operator; keep the candidate if it is near the front."""
        state, name = self._states[observation.model], observation.candidate
        state.operators.setdefault(name, None)
        candidate = state.running.get(name)
        operator = state.operators.get(observation.parent or name)
        if operator is not None:
            state.bandit.spend(operator, observation.seconds)
        if observation.score is not None and observation.bits is not None:
            member = Member(name, observation.bits, observation.score, candidate)
            gain = state.population.add(observation.rung, member)
            if operator is not None and observation.finished:
                state.bandit.reward(operator, gain)
        if observation.last:
            state.running.pop(name, None)

    def _begin(self, state: _State, model: str, rng: random.Random) -> Proposal | None:
        if state.count == 0:
            bare = first_candidate(self._families, self._task, model)
            if bare is not None and bare.id not in state.operators:
                return Proposal(bare, RANDOM)
        if state.count < self._config.fresh or not state.population.members():
            return self._draw(state, model, rng)
        return None

    def _draw(self, state: _State, model: str, rng: random.Random) -> Proposal | None:
        found = draw_new(self._families, self._task, model, rng, state.operators)
        return None if found is None else Proposal(found, RANDOM)

    def _vary(self, state: _State, model: str, rng: random.Random) -> Proposal | None:
        members = state.population.members()
        for operator in state.bandit.order(rng)[:_MAX_OPERATORS]:
            for _ in range(_MAX_PARENTS):
                if operator == RANDOM:
                    found = self._draw(state, model, rng)
                else:
                    found = self._child(state, members, operator, rng)
                if found is not None:
                    return found
        return None

    def _child(
        self, state: _State, members: list[Member], operator: str, rng: random.Random
    ) -> Proposal | None:
        needs_adapter = operator in ADAPTER_OPERATORS
        parent = pick(members, rng, lambda m: not needs_adapter or has_adapter(m))
        if parent is None or parent.candidate is None:
            return None
        around = self._around
        if operator == "transfer":
            around = replace(around, trained=parent.name not in state.running)
        if operator == "crossover":
            mate = pick(members, rng, lambda m: m.name != parent.name)
            around = replace(around, mate=mate.candidate if mate else None)
        child: Candidate | None = parent.candidate
        # A known child is varied again, except by `transfer`, which starts from trained numbers:
        # the known child may have none yet.
        for _ in range(1 if operator == "transfer" else _MAX_STEPS):
            child = OPERATORS[operator](child, around, rng) if child is not None else None
            if child is not None and child.id not in state.operators:
                return Proposal(child, operator, parent.name)
        return None


def has_adapter(member: Member) -> bool:
    """Return whether a member has an adapter that operators can change."""
    return member.candidate is not None and member.candidate.adapter is not None
