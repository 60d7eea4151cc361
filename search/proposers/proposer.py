"""The contract of proposers: asked for the next candidate of a model, told its results.

The same calls in the same order give the same proposals on every machine: the n-th draw of a model
comes from a stream named by seed, kind, model and n, and nothing else decides. A proposer holds no
clock, file or global state, so `replay` of the recorded calls rebuilds it.

No candidate is proposed twice, and any number of proposals may be outstanding. None means that
there is nothing to propose now: while results are outstanding one of them may lead to more, else
this model's search has ended. A call that returned None changed nothing, so it need not be
recorded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from kilobit.search.candidate import Candidate


@dataclass(frozen=True)
class Proposal:
    """A candidate to try.

    Attributes:
        candidate: what to try.
        operator: the method that made it: "random", "grid", "tpe", "swap demonstration", ...
        parent: id of the candidate it was made from; of two parents the one with the adapter.
    """

    candidate: Candidate
    operator: str
    parent: str | None = None


@dataclass(frozen=True)
class Observation:
    """The result of a candidate at a rung.

    Attributes:
        candidate: its id; an id that was not proposed is marked as known and never proposed.
        model: the base model's label.
        rung: index of the rung.
        last: no further rung follows: the candidate stopped, finished or failed.
        finished: it completed the last rung.
        score: None if it failed.
        bits: the length that counts in this search; None if it failed.
        num_examples: number of examples behind the score.
        seconds: of compute at this rung alone.
        parent: of a coarser program that was made from a trained candidate, that candidate's id.
    """

    candidate: str
    model: str
    rung: int
    last: bool
    finished: bool
    score: float | None
    bits: int | None
    num_examples: int
    seconds: float
    parent: str | None = None


class Proposer(Protocol):
    """Interface of a proposer; see the module's text."""

    def propose(self, model: str) -> Proposal | None:
        """Return the next candidate of `model`, None if there is nothing to propose now."""
        ...

    def observe(self, observation: Observation) -> None:
        """Record a result; call it once for each candidate and rung, in the order of arrival."""
        ...


class ReplayError(ValueError):
    """A proposer does not propose the recorded candidates."""


def replay(proposer: Proposer, events: Iterable[Proposal | Observation]) -> None:
    """Bring a new `proposer` into the state of the one whose calls were recorded.

    Args:
        proposer: new, with the settings, task and seed of the recorded one.
        events: the recorded proposals and observations, in their order.

    Raises:
        ReplayError: if the proposer proposes another candidate than the recorded one.
    """
    for event in events:
        if isinstance(event, Observation):
            proposer.observe(event)
            continue
        wanted = event.candidate
        found = proposer.propose(wanted.model)
        if found is None or found.candidate.id != wanted.id:
            raise ReplayError(
                f"the recorded candidate {wanted.id} of {wanted.model} is not proposed again "
                f"({found.candidate.id if found else 'nothing'} is): the settings, the task or the "
                "version differ from those of the record"
            )
