"""Replay of a search: its ledger's proposals and decisions are repeated in their order.

Events are replayed by their numbers in the run, never by a clock: each candidate records after how
many decisions it was proposed. Rungs that were finished together are decided together, in the order
of the proposals, then of the rungs. If the run ended in the middle of that, the remaining rungs are
decided before anything else runs. If none of them was decided, they are requested again together
with the unfinished rungs of their pack; finished ones are not computed again. Proposing and
deciding depend on earlier events only, so a decision with a lost record is made again identically.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.candidate import Candidate
from kilobit.search.proposers.proposer import ReplayError
from kilobit.search.records import CandidateRecord, RungRecord, rung_part
from kilobit.search.schedulers.scheduler import Action, Decision
from kilobit.search.search import Search

# The columns of a rung that a decision needs.
_TO_DECIDE = (
    "candidate",
    "rung",
    "score",
    "program_bits",
    "payload_bits",
    "num_examples",
    "num_generated",
    "against",
    "gap",
    "verdict",
    "left",
    "error",
    "seconds",
    "pack",
)
_OF_A_CANDIDATE = (
    "candidate", "task", "model", "regime", "family", "parent", "position", "after",
)  # fmt: skip
# Shared strings: one per action instead of one per row saves memory.
_ACTIONS: dict[str, Action] = {"promote": "promote", "stop": "stop", "finish": "finish"}


@dataclass
class Replayed:
    """State of a replayed search.

    Attributes:
        next_rung: the next rung of each candidate that has not ended, in the order of the
            proposals.
        later: candidates whose last decision promoted them for later, in the order of these
            decisions.
        undecided: records that were finished and not decided, in the order to decide them.
        order: the number of the next decision.
        position: the number of the next proposal.
        positions: the number of each proposal that was made.
    """

    next_rung: dict[str, int] = field(default_factory=dict)
    later: dict[str, None] = field(default_factory=dict)
    undecided: list[RungRecord] = field(default_factory=list)
    order: int = 0
    position: int = 0
    positions: dict[str, int] = field(default_factory=dict)

    def take(self, decision: Decision) -> None:
        """Update the next rung of a decision's candidate, and whether it goes on later."""
        self.later.pop(decision.candidate, None)
        if decision.later:
            self.later[decision.candidate] = None
        if decision.action == "promote":
            self.next_rung[decision.candidate] = decision.rung + 1
        else:
            self.next_rung.pop(decision.candidate, None)


def replay(ledger: Ledger, search: Search) -> Replayed:
    """Bring a new `search` into the recorded state, and return that state.

    Raises:
        ReplayError: if the search proposes another candidate than the recorded one.
        ValueError: naming the file, if a part of the ledger is damaged.
    """
    recorded = _recorded(ledger)
    proposed, indices = recorded.proposed, recorded.indices
    decided = _decided(ledger, recorded)
    order = decided[-1][0] + 1 if decided else 0
    state = Replayed(order=order, position=len(proposed))
    # Packs with at least one decided candidate; rows without a pack (None) are decided at once.
    begun: set[str | None] = {None}
    waiting = iter(proposed)
    following = next(waiting, None)
    for number, rung, name, action, later in decided:
        while following is not None and (following.after or 0) <= number:
            _propose(search, state, following)
            following = next(waiting, None)
        # A decision without a result is dropped: the rung was damaged and is computed again.
        index = indices.pop((name, rung), None)
        if index is None:
            continue
        begun.add(recorded.columns["pack"][index])
        decision = Decision(name, rung, _ACTIONS[action], "recorded before", later=later)
        search.replay(recorded.rung(index), recorded.coarser.get(name, ()), decision)
        state.take(decision)
    while following is not None:
        _propose(search, state, following)
        following = next(waiting, None)
    at = state.positions = {one.candidate: one.position or 0 for one in proposed}
    # A candidate that was stopped at an earlier rung has nothing to decide at a later one.
    indices = {key: index for key, index in indices.items() if key[0] in state.next_rung}
    left = sorted(indices, key=lambda key: (at[key[0]], key[1]))
    undecided = [recorded.rung(indices[key]) for key in left]
    state.undecided = [record for record in undecided if record.pack in begun]
    # Arrow keeps freed memory in its pool, and this process may run for days after the replay.
    del recorded, decided
    pa.default_memory_pool().release_unused()
    return state


def _decided(ledger: Ledger, recorded: "_Recorded") -> list[tuple[int, int, str, str, bool]]:
    """Return number, rung, candidate, action of each decision, and whether for later, in order.

    Lost decisions are included: a candidate with a result at a later rung must have been promoted.
    """
    rows = ledger.read("decisions", ["order", "rung", "candidate", "decision", "later"])
    decided = [
        (number, rung, name, action, bool(later))
        for number, rung, name, action, later in zip(
            *(column.to_pylist() for column in rows.columns), strict=True
        )
    ]
    known = {(name, rung): number for number, rung, name, *_ in decided}
    furthest: dict[str, int] = {}
    for name, rung in [*known, *recorded.indices]:
        furthest[name] = max(rung, furthest.get(name, 0))
    lost = [key for key in recorded.indices if key not in known and key[1] < furthest[key[0]]]
    if lost:
        finished = ledger.read("rungs", ["finished_at"])["finished_at"]
        lost.sort(key=lambda key: (str(finished[recorded.indices[key]]), key[1]))
        end = max(known.values(), default=-1) + 1
        gaps: list[int] = sorted(set(range(end)) - set(known.values()))
        if len(gaps) != len(lost):
            # Their exact numbers are unknown, but each came before its candidate's later decisions.
            later = [[n for k, n in known.items() if k[0] == key[0]] for key in lost]
            gaps = [min(numbers, default=end) for numbers in later]
        decided += [
            (n, rung, name, "promote", False) for n, (name, rung) in zip(gaps, lost, strict=True)
        ]
    return sorted(decided)


@dataclass(frozen=True)
class _Recorded:
    """Recorded proposals and rungs of a search; rungs in columns, which need less memory."""

    proposed: list[CandidateRecord]
    columns: dict[str, list[Any]]
    indices: dict[tuple[str, int], int]
    coarser: dict[str, list[RungRecord]]

    def rung(self, index: int) -> RungRecord:
        """Return the record of the rung at an index."""
        return RungRecord.of({name: values[index] for name, values in self.columns.items()})


def _recorded(ledger: Ledger) -> _Recorded:
    about = ledger.records(CandidateRecord, _OF_A_CANDIDATE)
    proposed = sorted(
        (one for one in about if one.position is not None), key=lambda one: one.position or 0
    )
    names = {one.candidate for one in proposed}
    parents = {one.candidate: one.parent or "" for one in about if one.candidate not in names}
    rungs = ledger.read("rungs", _TO_DECIDE)
    columns = {name: rungs[name].to_pylist() for name in _TO_DECIDE}
    found = _Recorded(proposed, columns, {}, {})
    for index, key in enumerate(zip(columns["candidate"], columns["rung"], strict=True)):
        if key[0] in names:
            found.indices[key] = index
        elif key[0] in parents:
            found.coarser.setdefault(parents[key[0]], []).append(found.rung(index))
    for records in found.coarser.values():
        records.sort(key=lambda record: record.candidate)
    return found


def _propose(search: Search, state: Replayed, recorded: CandidateRecord) -> None:
    found = search.propose(recorded.model)
    if found is None or found.candidate.id != recorded.candidate:
        raise ReplayError(
            f"the recorded candidate {recorded.candidate} of {recorded.model} is not proposed "
            f"again ({found.candidate.id if found else 'nothing'} is): the data or the version "
            "differ from those of the recorded run"
        )
    state.next_rung[recorded.candidate] = search.first_rung


def coarser_records(ledger: Ledger, variants: Sequence[Candidate], rung: int) -> list[RungRecord]:
    """Return the recorded results of a candidate's coarser variants at `rung`."""
    parts = (ledger.read_part(RungRecord, rung_part(variant.id, rung)) for variant in variants)
    return sorted((found[0] for found in parts if found), key=lambda record: record.candidate)
