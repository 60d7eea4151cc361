"""Recorder of a search: writes each proposal and decision to the ledger before it takes effect.

The rows of finished rungs go in, candidates and decisions come out. Raises `SupersededError` if a
newer attempt at the run has begun, and `OSError` if the ledger can't be written.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

from kilobit.cluster.driver.check import Plan
from kilobit.cluster.driver.replay import Replayed, coarser_records
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.compaction import fold
from kilobit.search.candidate import Candidate
from kilobit.search.proposers.proposer import Proposal
from kilobit.search.records import CandidateRecord, DecisionRecord, RungRecord, rung_part
from kilobit.search.schedulers.racing import Incumbent
from kilobit.search.schedulers.scheduler import Decision
from kilobit.search.search import Search

Listener = Callable[[RungRecord, Candidate, Decision, str], None]
# Decisions between two compactions of the ledger: many small parts are slow to read, and this many
# take a second or two.
FOLD_EVERY = 250


class Recorder:
    """Recorder of proposals and decisions, which reports each decision to a listener.

    Args:
        run: the run, locked by this attempt.
        plan: the checked sweep.
        search: the proposer and the scheduler, combined.
        state: the replayed state of the search.
        listener: called after each decision.
    """

    def __init__(
        self, run: RunFolder, plan: Plan, search: Search, state: Replayed, listener: Listener
    ) -> None:
        self._plan, self._search = plan, search
        self._ledger, self._sweep = run.ledger, run.sweep
        self._order, self._position = state.order, state.position
        self._positions = dict(state.positions)
        self.listener = listener
        self._regimes = {model.label: model.regime for model in run.sweep.base_models}
        self._shares = _shares(plan, run.sweep)
        self._recorded: dict[tuple[str, int], Decision] = {}
        # Candidates with a decision that is not recorded yet.
        self._decided: dict[tuple[str, int], Candidate] = {}

    @property
    def first_rung(self) -> int:
        """Return the rung at which a candidate begins."""
        return self._search.first_rung

    @property
    def num_proposed(self) -> int:
        """Return the number of candidates proposed in all attempts."""
        return self._search.num_proposed

    def incumbents(
        self, model: str, rungs: Collection[int]
    ) -> dict[tuple[int, int], tuple[Incumbent, ...]]:
        """Return the incumbents at some rungs by rung and rungs left, none without races."""
        return {
            (rung, left): self._search.incumbents(model, rung, left)
            for rung in (rungs if self._search.races else ())
            for left in range(self._sweep.rungs.count - rung)
        }

    def pending(self, state: Replayed) -> list[Candidate]:
        """Return the candidates that have not ended, in the order of their proposals.

        Those that were promoted for later are the last, in the order of these decisions.
        """
        first = [name for name in state.next_rung if name not in state.later]
        return [self._search.running[name] for name in [*first, *state.later]]

    def propose(self, model: str) -> Candidate | None:
        """Propose and record the next candidate of `model`; None if there is none at present.

        A model has its share of the budget, so that it depends on no worker which models have
        candidates. One that has no more leaves the rest of its share to the others.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if the proposal can't be recorded.
        """
        if self._search.proposed[model] >= self._shares.get(model, math.inf):
            return None
        proposal = self._search.propose(model)
        if proposal is None:
            self._shares.clear()
            return None
        about = self._about(proposal)
        self._ledger.write(CandidateRecord, about.candidate, [about])
        self._positions[proposal.candidate.id] = self._position
        self._position += 1
        return proposal.candidate

    def decide(self, record: RungRecord) -> Decision:
        """Decide and record what a candidate does after a rung; a repeated one changes nothing.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if the decision can't be recorded.
            ValueError: naming the file, if a part of the ledger is damaged.
        """
        key = (record.candidate, record.rung)
        if key in self._recorded:
            return self._recorded[key]
        # If recording a decision failed before, it is not made again, only recorded.
        if key not in self._decided:
            self._decided[key] = self._search.running[key[0]]
        candidate = self._decided[key]
        coarser = []
        if record.rung == self._sweep.rungs.count - 1 and candidate.adapter is not None:
            variants = self._sweep.rate_search.variants(candidate)
            coarser = coarser_records(self._ledger, variants, record.rung)
        decision = self._search.take(record, coarser)
        reason = decision.reason
        if record.error:
            reason = f"failed: {record.error.strip().splitlines()[-1]}"
        elif record.is_too_long:
            reason = f"its {record.program_bits} program bits are more than max_bits allows"
        self._write(decision, reason)
        self._recorded[key] = decision
        del self._decided[key]
        self.listener(record, candidate, decision, reason)
        if self._order % FOLD_EVERY == 0:
            fold(self._ledger)
        return decision

    def decide_together(self, records: Sequence[RungRecord]) -> dict[tuple[str, int], Decision]:
        """Decide the candidates of records that were finished together.

        They are decided in the order of their proposals, then of the rungs; errors as in `decide`.
        """
        ordered = sorted(records, key=lambda one: (self._positions[one.candidate], one.rung))
        return {(one.candidate, one.rung): self.decide(one) for one in ordered}

    def _about(self, proposal: Proposal) -> CandidateRecord:
        candidate = proposal.candidate
        return CandidateRecord(
            candidate=candidate.id,
            task=candidate.task,
            model=candidate.model,
            regime=self._regimes[candidate.model],
            family=candidate.family,
            spec=candidate.canonical(),
            seed=self._sweep.seed,
            estimated_bits=self._plan.bound_bits(candidate),
            parent=proposal.parent,
            position=self._position,
            after=self._order,
            operator=proposal.operator,
        )

    def _write(self, decision: Decision, reason: str) -> None:
        record = DecisionRecord(
            candidate=decision.candidate,
            rung=decision.rung,
            decision=decision.action,
            reason=reason,
            compared_with=decision.compared_with,
            attempt=self._ledger.attempt,
            decided_at=datetime.now(UTC),
            order=self._order,
            later=decision.later,
        )
        part = rung_part(decision.candidate, decision.rung)
        self._ledger.write(DecisionRecord, part, [record])
        self._order += 1


def _shares(plan: Plan, sweep: Sweep) -> dict[str, int]:
    """Return the candidates of each model's share of the budget, none where there is none."""
    most, models = sweep.budget.candidates, [model.label for model in sweep.base_models]
    if most is None:
        return {}
    if plan.candidates:
        return dict(Counter(one.model for one in plan.candidates))
    return {model: len(range(at, most, len(models))) for at, model in enumerate(models)}
