"""A search: a proposer chooses the next candidates, a scheduler promotes or stops them.

Rows of rungs drive it, both on a cluster and when a run is resumed from its ledger.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kilobit.search.candidate import Candidate
from kilobit.search.proposers.proposer import Observation, Proposal, Proposer
from kilobit.search.schedulers.racing import Incumbent
from kilobit.search.schedulers.scheduler import Decision, Result, Scheduler

Row = Mapping[str, Any]


class Search:
    """A proposer and a scheduler that see the same results in the same order.

    Args:
        proposer: chooses the candidates.
        scheduler: promotes or stops them.
        bits: the column of a row that counts as length.
        limit: most candidates in all, None for as many as the proposer has.
    """

    def __init__(
        self, proposer: Proposer, scheduler: Scheduler, bits: str, limit: int | None = None
    ) -> None:
        self._proposer, self._scheduler, self._bits = proposer, scheduler, bits
        self._limit = limit
        self.num_proposed = 0
        # Candidates that have not ended yet, by id.
        self.running: dict[str, Candidate] = {}
        self.first_rung = scheduler.first_rung

    @property
    def is_full(self) -> bool:
        """Return whether as many candidates as are allowed have been proposed."""
        return self._limit is not None and self.num_proposed >= self._limit

    @property
    def races(self) -> bool:
        """Return whether candidates are raced within a rung."""
        return self._scheduler.races

    def propose(self, model: str) -> Proposal | None:
        """Return the next candidate of `model`, None if there is nothing to propose now."""
        if self.is_full:
            return None
        proposal = self._proposer.propose(model)
        if proposal is not None:
            self.running[proposal.candidate.id] = proposal.candidate
            self.num_proposed += 1
        return proposal

    def take(self, row: Row, coarser: Sequence[Row] = ()) -> Decision:
        """Report a candidate's result at a rung and return the decision.

        A repeated row changes nothing and gets the first decision again.

        Args:
            row: a row of the ledger's table `rungs`.
            coarser: rows of the coarser programs made from it after its last rung.
        """
        known = self._scheduler.decided(row["candidate"], row["rung"])
        if known is not None:
            return known
        result = self._result(row, self.running[row["candidate"]].model)
        decision = self._scheduler.report(result)
        self._tell(row, coarser, result, decision)
        return decision

    def replay(self, row: Row, coarser: Sequence[Row], decision: Decision) -> None:
        """Replay a result with its recorded decision, which stands."""
        result = self._result(row, self.running[row["candidate"]].model)
        self._scheduler.replay(result, decision)
        self._tell(row, coarser, result, decision)

    def incumbents(self, model: str, rung: int, left: int) -> tuple[Incumbent, ...]:
        """Return the incumbents of a rung; see `Scheduler.incumbents`."""
        return self._scheduler.incumbents(model, rung, left=left)

    def _tell(self, row: Row, coarser: Sequence[Row], result: Result, decision: Decision) -> None:
        if decision.action != "promote":
            del self.running[result.candidate]
        goes_on, finished = decision.action == "promote", decision.action == "finish"
        self._proposer.observe(self._observed(row, result, last=not goes_on, finished=finished))
        for made in coarser:
            its = self._result(made, result.model)
            complete = its.score is not None and its.verdict != "loses"
            if complete:
                self._scheduler.note_finished(its)
            seen = self._observed(made, its, last=True, finished=complete, parent=result.candidate)
            self._proposer.observe(seen)

    def _result(self, row: Row, model: str) -> Result:
        return Result(
            candidate=row["candidate"],
            model=model,
            rung=row["rung"],
            score=row.get("score"),
            bits=row.get(self._bits),
            verdict=row.get("verdict"),
            against=row.get("against"),
            gap=row.get("gap"),
            left=row.get("left") or 0,
        )

    @staticmethod
    def _observed(
        row: Row, result: Result, *, last: bool, finished: bool, parent: str | None = None
    ) -> Observation:
        return Observation(
            candidate=result.candidate,
            model=result.model,
            rung=result.rung,
            last=last,
            finished=finished,
            score=result.score,
            bits=result.bits,
            num_examples=row.get("num_examples") or 0,
            seconds=row.get("seconds") or 0.0,
            parent=parent,
        )
