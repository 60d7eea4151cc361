"""What a proposer is: asked for the next candidate of a model, told what came of it.

The same calls in the same order give the same proposals on every machine: the n-th draw of a model
comes from a stream named by seed, kind, model and n, and nothing else decides. A proposer holds no
clock, file or global state, so `replay` of what a ledger recorded rebuilds it.

No candidate is proposed twice, and any number of proposals may be outstanding. None means that
there is nothing to propose now: while results are outstanding one of them may bring up more, else
this model's search is at its end. A call that returned None changed nothing, so it need not be
recorded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from search.candidate import Candidate


@dataclass(frozen=True)
class Proposal:
    """A candidate to try.

    Attributes:
        candidate: what to try.
        operator: what made it: "random", "grid", "tpe", "swap demonstration", ...
        parent: id of the candidate it was made from; of two parents, the one with the adapter.
    """

    candidate: Candidate
    operator: str
    parent: str | None = None


@dataclass(frozen=True)
class Observation:
    """What came of a candidate at a rung.

    Attributes:
        candidate: its id; one that was not proposed is taken for known and never proposed.
        model: the base model's label.
        rung: index of the rung.
        last: it will not go on: it stopped, finished or failed.
        finished: it completed the last rung.
        score: None if it failed.
        bits: the length that counts in this search; None if it failed.
        num_examples: how many examples the score is over.
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
    """Decides what is tried; see the module's text."""

    def propose(self, model: str) -> Proposal | None:
        """Return the next candidate of `model`, None if there is nothing to propose now."""
        ...

    def observe(self, observation: Observation) -> None:
        """Take in a result; call it once for each candidate and rung, in the order of arrival."""
        ...


class ReplayError(ValueError):
    """What was recorded is not what this proposer proposes."""


def replay(proposer: Proposer, events: Iterable[Proposal | Observation]) -> None:
    """Bring a new `proposer` into the state of the one whose calls were recorded.

    Args:
        proposer: new, with the settings, task and seed of the recorded one.
        events: the recorded proposals and observations, in their order.

    Raises:
        ReplayError: if another candidate than the recorded one comes up.
    """
    for event in events:
        if isinstance(event, Observation):
            proposer.observe(event)
            continue
        wanted = event.candidate
        found = proposer.propose(wanted.model)
        if found is None or found.candidate.id != wanted.id:
            raise ReplayError(
                f"the recorded candidate {wanted.id} of {wanted.model} does not come up again "
                f"({found.candidate.id if found else 'nothing'} does): the settings, the task or "
                "the version are not those of the record"
            )
