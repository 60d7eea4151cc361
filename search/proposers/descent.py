"""Coordinate descent on the length of a prompt under the base model itself: -log2 p, in bits.

It begins with `fresh` random draws. Then a prompt with an instruction is taken from the front of
finished candidates, the best score first, and single words of its instruction are left out,
replaced or inserted. Of up to `neighbours` such changes those with fewer bits than the prompt are
proposed, the fewest bits first, at most `tries`. The descent continues from a change whose score at
the last rung is no more than `tolerance` below the score of the prompt where the descent began, or
that improves the front. Without a prompt to begin from, more random draws follow.

The lengths are computed by a function that is passed in. Equal calls give equal proposals only if
that function returns equal lengths.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kilobit.search.candidate import Candidate
from kilobit.search.proposers.config import DescentProposer
from kilobit.search.proposers.operators_prompt import (
    join,
    make_corpus,
    most_words,
    split,
    with_prompt,
)
from kilobit.search.proposers.population import Member, Population
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.proposers.random import draw_new, first_candidate, searched
from kilobit.search.space import Families
from kilobit.search.streams import stream
from kilobit.search.task import Task

# From a model's label and whole prompts to their lengths in bits under that model.
PromptBits = Callable[[str, Sequence[str]], Sequence[float]]


@dataclass
class _Descent:
    """One descent: the lowest score from which it continues, and the fewest bits reached."""

    floor: float
    lowest_cost: float = float("inf")


@dataclass
class _Base:
    """A prompt whose changes are tried; `changes` is None until they are computed."""

    candidate: Candidate
    descent: _Descent
    changes: list[tuple[float, Candidate]] | None = None


@dataclass
class _State:
    """The state of the search on one base model."""

    finished: Population = field(default_factory=Population)
    count: int = 0
    taken: set[str] = field(default_factory=set)
    running: dict[str, tuple[Candidate, float, _Descent | None]] = field(default_factory=dict)
    bases: list[_Base] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)


class PromptDescent:
    """Propose changes of prompts on the front that need fewer bits; see the module's text."""

    def __init__(
        self,
        config: DescentProposer,
        families: Families,
        task: Task,
        models: Sequence[str],
        seed: int,
        prompt_bits: PromptBits,
    ) -> None:
        self._config, self._families, self._task = config, searched(families), task
        self._seed, self._prompt_bits = seed, prompt_bits
        self._words = make_corpus([self._families["prompt"]], task).single_words()
        self._states = {model: _State() for model in models}

    def propose(self, model: str) -> Proposal | None:
        """Return a change of a prompt that needs fewer bits, or a random draw."""
        state = self._states[model]
        rng = stream(self._seed, self._config.kind, model, state.count)
        bare = first_candidate(self._families, self._task, model)
        if state.count == 0 and bare is not None and bare.id not in state.taken:
            return self._enter(state, Proposal(bare, "random"))
        if state.count >= self._config.fresh:
            found = self._descend(state, model)
            if found is not None:
                return found
        drawn = draw_new(self._families, self._task, model, rng, state.taken)
        return None if drawn is None else self._enter(state, Proposal(drawn, "random"))

    def observe(self, observation: Observation) -> None:
        """Record a result and continue from a prompt with fewer bits that is good enough."""
        state, name = self._states[observation.model], observation.candidate
        state.taken.add(name)
        if not observation.last:
            return
        candidate, cost, descent = state.running.pop(name, (None, 0.0, None))
        score, bits = observation.score, observation.bits
        if not observation.finished or score is None or bits is None:
            return
        gain = state.finished.add(0, Member(name, bits, score, candidate))
        if candidate is None or descent is None or cost >= descent.lowest_cost:
            return
        if score >= descent.floor or gain > 0:
            descent.lowest_cost = cost
            state.begun.add(name)
            state.bases.append(_Base(candidate, descent))

    def _enter(
        self,
        state: _State,
        proposal: Proposal,
        cost: float = 0.0,
        descent: _Descent | None = None,
    ) -> Proposal:
        name = proposal.candidate.id
        state.count += 1
        state.taken.add(name)
        state.running[name] = proposal.candidate, cost, descent
        return proposal

    def _descend(self, state: _State, model: str) -> Proposal | None:
        while state.bases or self._begin(state):
            base = state.bases[-1]
            if base.changes is None:
                base.changes = self._cheapest(base, model)
            while base.changes:
                cost, child = base.changes.pop()
                if child.id not in state.taken and cost < base.descent.lowest_cost:
                    proposal = Proposal(child, self._config.kind, base.candidate.id)
                    return self._enter(state, proposal, cost, base.descent)
            state.bases.pop()
        return None

    def _begin(self, state: _State) -> bool:
        """Begin a descent from the best unused prompt on the front; False if there is none."""
        member = next(
            (
                member
                for member in reversed(state.finished.front(0))
                if member.name not in state.begun and _has_instruction(member.candidate)
            ),
            None,
        )
        if member is None or member.candidate is None:
            return False
        state.begun.add(member.name)
        descent = _Descent(floor=member.score - self._config.tolerance)
        state.bases.append(_Base(member.candidate, descent))
        return True

    def _cheapest(self, base: _Base, model: str) -> list[tuple[float, Candidate]]:
        """Return the changes with the fewest bits, the fewest last.

        They depend on the prompt alone, so the time of the call does not matter.
        """
        rng = stream(self._seed, self._config.kind, model, base.candidate.id)
        children = self._changes(base.candidate, rng)
        texts = [c.prompt.render(self._task) for c in (base.candidate, *children)]
        own, *costs = self._prompt_bits(model, texts)
        base.descent.lowest_cost = min(base.descent.lowest_cost, own)
        first = sorted((cost, i) for i, cost in enumerate(costs))[: self._config.tries]
        return [(cost, children[i]) for cost, i in reversed(first)]

    def _changes(self, candidate: Candidate, rng: random.Random) -> list[Candidate]:
        """Return candidates with one word left out, then with a random one replaced or inserted."""
        words = split(candidate.prompt.instruction)
        most = most_words(self._families["prompt"])
        found = dict.fromkeys(tuple(words[:i] + words[i + 1 :]) for i in range(len(words)))
        for _ in range(self._config.neighbours - len(found)):
            at, word = rng.randint(0, len(words)), rng.choice(self._words)
            after = at + (rng.random() < 2 / 3)
            changed = (*words[:at], word, *words[after:])
            if len(changed) <= most:
                found[changed] = None
        texts = [join(changed) for changed in list(found)[: self._config.neighbours]]
        return [
            with_prompt(candidate, instruction=text)
            for text in texts
            if text != candidate.prompt.instruction
        ]


def _has_instruction(candidate: Candidate | None) -> bool:
    return (
        candidate is not None and candidate.adapter is None and bool(candidate.prompt.instruction)
    )
