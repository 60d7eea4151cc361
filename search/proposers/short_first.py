"""A finite list of candidates in rounds, each from short to long.

An upper bound of a candidate's length is known before training. With short candidates first, a
longer one meets incumbents that it has to beat; and because every round covers all lengths, a run
that ends early has tried some of each.
"""

import math
from collections import deque
from collections.abc import Callable

from search.candidate import Candidate
from search.proposers.contract import Observation, Proposal, Proposer

ROUND = 16


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
