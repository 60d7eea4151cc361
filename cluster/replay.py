"""Where a search stands, from its ledger: recorded decisions stand, and what is undecided is found.

Decisions are replayed by their number in the run, never by a clock. A rung that was finished but
not decided (the run ended between the two) is decided before anything else runs, in the order of
the plan and then of the rungs; with one worker there is at most one. Deciding depends on nothing
but the results before it, so a decision whose record was lost comes out the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evaluators.ledger import Ledger
from search.candidate import Candidate
from search.halving import Action, Decision, Halving

_TO_DECIDE = (
    "candidate",
    "rung",
    "score",
    "program_bits",
    "payload_bits",
    "num_examples",
    "error",
)
_ACTIONS: dict[str, Action] = {"promote": "promote", "stop": "stop", "finish": "finish"}


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
    ids = list(position)
    # In columns: as dictionaries the rows of a long search would take most of the memory.
    rungs = ledger.read("rungs", _TO_DECIDE)
    places = {
        (name, rung): place
        for place, (name, rung) in enumerate(_columns(rungs, "candidate", "rung"))
        # Coarser codings of an adapter have rows, but nobody decides about them.
        if name in position
    }
    results = list(_columns(rungs, "score", f"{length}_bits"))
    recorded = ledger.read("decisions", ["candidate", "rung", "decision", "order"])
    recorded = recorded.take(pc.sort_indices(recorded["order"]))
    undecided: list[dict[str, Any]] = []
    order = recorded["order"][-1].as_py() + 1 if len(recorded) else 0
    state = Replayed(dict.fromkeys(position, 0), undecided, order)
    for name, rung, action in _columns(recorded, "candidate", "rung", "decision"):
        # Without its result a decision is made anew: the rung was damaged and is done again.
        place = places.pop((name, rung), None)
        if place is None:
            continue
        number = position[name]
        # One string for each candidate and action, not one for each row.
        decision = Decision(ids[number], rung, _ACTIONS[action], "recorded before")
        score, bits = results[place]
        halving.replay(decision, model=candidates[number].model, score=score, bits=bits)
        state.take(decision)
    left = sorted(places, key=lambda key: (position[key[0]], key[1]))
    undecided += rungs.take([places[key] for key in left]).to_pylist() if left else []
    # Arrow keeps what it has freed; the process that began the attempt runs for days after this.
    del rungs, recorded
    pa.default_memory_pool().release_unused()
    return state


def _columns(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)
