"""Where a search stands, from its ledger: recorded decisions stand, and what is undecided is found.

Decisions are replayed by their number in the run, never by a clock. A rung that was finished but
not decided (the run ended between the two) is decided before anything else runs, in the order of
the plan and then of the rungs; with one worker there is at most one. Deciding depends on nothing
but the results before it, so a decision whose record was lost comes out the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.ledger import Ledger
from search.candidate import Candidate
from search.halving import Decision, Halving


@dataclass(frozen=True)
class Replayed:
    """Where a search stands.

    Attributes:
        next_rung: of each candidate that has not ended.
        undecided: rows that were finished and not decided, in the order to decide them.
        order: the number of the next decision.
    """

    next_rung: dict[str, int]
    undecided: list[dict[str, Any]]
    order: int

    def take(self, decision: Decision) -> None:
        """Take in a decision."""
        if decision.action == "promote":
            self.next_rung[decision.candidate] = decision.rung + 1
        else:
            self.next_rung.pop(decision.candidate, None)


def replay(
    ledger: Ledger, candidates: Sequence[Candidate], halving: Halving, length: str
) -> Replayed:
    """Replay what is recorded into `halving` and return where the search of `candidates` stands."""
    position = {candidate.id: number for number, candidate in enumerate(candidates)}
    bits = f"{length}_bits"
    results = {
        (row["candidate"], row["rung"]): row
        for row in ledger.rows("rungs", ["candidate", "rung", "score", bits, "error"])
        # Coarser codings of an adapter have rows, but nobody decides about them.
        if row["candidate"] in position
    }
    recorded = ledger.rows("decisions", ["candidate", "rung", "decision", "order"])
    undecided: list[dict[str, Any]] = []
    order = max((row["order"] for row in recorded), default=-1) + 1
    state = Replayed(dict.fromkeys(position, 0), undecided, order)
    for row in sorted(recorded, key=lambda row: row["order"]):
        # Without its result a decision is made anew: the rung was damaged and is done again.
        result = results.pop((row["candidate"], row["rung"]), None)
        if result is None:
            continue
        decision = Decision(row["candidate"], row["rung"], row["decision"], "recorded before")
        model = candidates[position[decision.candidate]].model
        halving.replay(decision, model=model, score=result["score"], bits=result[bits])
        state.take(decision)
    undecided += sorted(results.values(), key=lambda row: (position[row["candidate"]], row["rung"]))
    return state
