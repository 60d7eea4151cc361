"""Where a search stands, from its ledger: what was proposed and decided is done again in its order.

Events are replayed by their numbers in the run, never by a clock: a candidate was proposed after so
many decisions. A rung that was finished but not decided (the run ended between the two) is decided
before anything else runs, in the order of the proposals and then of the rungs; with one worker
there is at most one. Proposing and deciding depend on nothing but what came before, so a decision
whose record was lost comes out the same.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluators.ledger import Ledger
from search.candidate import Candidate
from search.proposers.contract import ReplayError
from search.schedulers.scheduler import Decision
from search.search import Search

Row = dict[str, Any]


@dataclass
class Replayed:
    """Where a search stands.

    Attributes:
        next_rung: of each candidate that has not ended, in the order of the proposals.
        undecided: rows that were finished and not decided, in the order to decide them.
        coarser: rows of the programs that were made of each candidate after its last rung.
        order: the number of the next decision.
        position: the number of the next proposal.
    """

    next_rung: dict[str, int] = field(default_factory=dict)
    undecided: list[Row] = field(default_factory=list)
    coarser: Mapping[str, list[Row]] = field(default_factory=dict)
    order: int = 0
    position: int = 0

    def take(self, decision: Decision) -> None:
        """Take in a decision."""
        if decision.action == "promote":
            self.next_rung[decision.candidate] = decision.rung + 1
        else:
            self.next_rung.pop(decision.candidate, None)


def replay(ledger: Ledger, search: Search) -> Replayed:
    """Bring a new `search` to where the recorded one was.

    Raises:
        ReplayError: if what was recorded does not come up again.
        ValueError: naming the file, if a part of the ledger is damaged.
    """
    proposed, results, coarser = _recorded(ledger)
    decided = sorted(
        ledger.rows("decisions", ["candidate", "rung", "decision", "order"]),
        key=lambda row: row["order"],
    )
    state = Replayed(
        coarser=coarser, order=decided[-1]["order"] + 1 if decided else 0, position=len(proposed)
    )
    waiting = iter(proposed)
    following = next(waiting, None)
    for row in decided:
        while following is not None and following["after"] <= row["order"]:
            _propose(search, state, following)
            following = next(waiting, None)
        # Without its result a decision is made anew: the rung was damaged and is done again.
        result = results.pop((row["candidate"], row["rung"]), None)
        if result is None:
            continue
        decision = Decision(row["candidate"], row["rung"], row["decision"], "recorded before")
        search.replay(result, coarser.get(decision.candidate, ()), decision)
        state.take(decision)
    while following is not None:
        _propose(search, state, following)
        following = next(waiting, None)
    place = {row["candidate"]: row["position"] for row in proposed}
    state.undecided = sorted(
        results.values(), key=lambda row: (place[row["candidate"]], row["rung"])
    )
    return state


def _recorded(
    ledger: Ledger,
) -> tuple[list[Row], dict[tuple[str, int], Row], dict[str, list[Row]]]:
    """Return proposals in their order, results, and the coarser programs of each candidate."""
    columns = ["candidate", "model", "parent", "position", "after"]
    about = ledger.rows("candidates", columns)
    proposed = sorted(
        (row for row in about if row["position"] is not None), key=lambda row: row["position"]
    )
    names = {row["candidate"] for row in proposed}
    parents = {row["candidate"]: row["parent"] for row in about if row["candidate"] not in names}
    results: dict[tuple[str, int], Row] = {}
    coarser: defaultdict[str, list[Row]] = defaultdict(list)
    for row in ledger.rows("rungs"):
        if row["candidate"] in names:
            results[row["candidate"], row["rung"]] = row
        elif row["candidate"] in parents:
            coarser[parents[row["candidate"]]].append(row)
    for rows in coarser.values():
        rows.sort(key=lambda row: str(row["candidate"]))
    return proposed, results, dict(coarser)


def _propose(search: Search, state: Replayed, row: Row) -> None:
    found = search.propose(row["model"])
    if found is None or found.candidate.id != row["candidate"]:
        raise ReplayError(
            f"the recorded candidate {row['candidate']} of {row['model']} does not come up again "
            f"({found.candidate.id if found else 'nothing'} does): the data or the version are not "
            "those of the record"
        )
    state.next_rung[row["candidate"]] = search.first_rung


def coarser_rows(ledger: Ledger, variants: list[Candidate], rung: int) -> list[Row]:
    """Return the rows of the programs that were made of a candidate at `rung`."""
    parts = (ledger.read_part("rungs", f"{variant.id}-r{rung}") for variant in variants)
    return sorted((rows[0] for rows in parts if rows), key=lambda row: str(row["candidate"]))
