"""A search: a proposer chooses the next candidates, a scheduler promotes or stops them.

Records of rungs drive it, both on a cluster and when a run is resumed from its ledger. Which
proposer and which scheduler, a sweep file says.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from kilobit.search.candidate import GIVEN, Candidate, RungConfig
from kilobit.search.proposers.evolution import Evolution, EvolutionProposer
from kilobit.search.proposers.grid import Grid, GridProposer
from kilobit.search.proposers.optuna import Nsga2Proposer, OptunaProposer, TpeProposer
from kilobit.search.proposers.proposer import Observation, Proposal, Proposer
from kilobit.search.proposers.random import RandomDraws, RandomProposer
from kilobit.search.records import RungRecord
from kilobit.search.schedulers.racing import Incumbent, RacingConfig
from kilobit.search.schedulers.scheduler import Decision, Result, Scheduler
from kilobit.search.settings import Config, Length
from kilobit.search.space import Families
from kilobit.search.task import Task

ProposerConfig = Annotated[
    RandomProposer | GridProposer | TpeProposer | Nsga2Proposer | EvolutionProposer,
    Field(discriminator="kind"),
]
KINDS = ("random", "grid", "tpe", "nsga2", "evolution")
# Kinds of older versions: runs that used them can be read, but not resumed.
REMOVED_KINDS = ("descent",)


def check_proposer(config: ProposerConfig, *, ends: bool) -> None:
    """Check that a sweep ends, by itself or by its budget.

    Args:
        config: the proposer.
        ends: the sweep limits its candidates or its seconds.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(config, RandomProposer | GridProposer) and not ends:
        raise ValueError(
            f"proposer: {config.kind} never ends by itself: give budget.candidates or "
            "budget.seconds"
        )


def make_proposer(
    config: ProposerConfig,
    families: Families,
    task: Task,
    models: Sequence[str],
    seed: int,
    templates: Container[str] = (),
) -> Proposer:
    """Return a new proposer; `proposer.replay` brings it to the state of a recorded one.

    Args:
        config: its kind and settings.
        families: the families that are searched.
        task: its train split supplies demonstrations and words.
        models: labels of the base models.
        seed: names its random streams.
        templates: labels of the base models that have a chat template.
    """
    return _ByModel(
        {
            model: _proposer(config, families.on(template=model in templates), task, model, seed)
            for model in models
        }
    )


class _ByModel:
    """A proposer for each base model, whose proposals depend on no other model."""

    def __init__(self, proposers: Mapping[str, Proposer]) -> None:
        self._proposers = proposers

    def propose(self, model: str) -> Proposal | None:
        return self._proposers[model].propose(model)

    def observe(self, observation: Observation) -> None:
        self._proposers[observation.model].observe(observation)


def _proposer(
    config: ProposerConfig, families: Families, task: Task, model: str, seed: int
) -> Proposer:
    models = [model]
    if isinstance(config, RandomProposer):
        return RandomDraws(families, task, models, seed)
    if isinstance(config, GridProposer):
        return Grid(config, families, task, models, seed)
    if isinstance(config, EvolutionProposer):
        return Evolution(config, families, task, models, seed)
    return OptunaProposer(config, families, task, models, seed)


class SchedulerConfig(Config):
    """The rule that promotes or stops a candidate after a rung."""

    kind: Literal["bits_aware", "asha", "multi_objective", "full"] = "bits_aware"
    """promotes, for bits_aware: a candidate while it can still improve the front at its length;
    asha: the best by score; multi_objective: the best by non-dominated rank of bits and score;
    full: every candidate, straight to the last rung"""
    racing: RacingConfig = RacingConfig()
    """for bits_aware: stop scoring within a rung"""


def make_scheduler(config: SchedulerConfig, rungs: RungConfig) -> Scheduler:
    """Return the scheduler of a sweep."""
    # A mistake in a sweep file is refused without numpy.
    from kilobit.search.schedulers.asha import Asha, Full, MultiObjectiveAsha
    from kilobit.search.schedulers.bits_aware import BitsAware

    shape = {"num_rungs": rungs.count, "eta": rungs.eta}
    if config.kind == "bits_aware":
        sizes = [rung.num_examples for rung in rungs.ladder()]
        return BitsAware(**shape, sizes=sizes)
    kinds = {"asha": Asha, "multi_objective": MultiObjectiveAsha, "full": Full}
    return kinds[config.kind](**shape)


class Search:
    """A proposer and a scheduler that see the same results in the same order.

    Args:
        proposer: chooses the candidates.
        scheduler: promotes or stops them.
        length: what counts as the length of a candidate.
        limit: most candidates of the proposer, None for as many as it has.
        first: candidates without the model, and those that the user gives. They come first and
            count for no limit. The proposer does not see them, unless it would propose the same
            candidate: instead of a second trial it is told the results of the first.
    """

    def __init__(
        self,
        proposer: Proposer,
        scheduler: Scheduler,
        length: Length,
        limit: int | None = None,
        first: Sequence[Candidate] = (),
    ) -> None:
        self._proposer, self._scheduler, self._length = proposer, scheduler, length
        self._limit, self._first = limit, list(first)
        self._num_first = 0
        # Results of those candidates that the proposer has not proposed itself.
        self._untold: dict[str, list[Observation]] = {one.id: [] for one in self._first}
        # Candidates of the proposer by base model.
        self.proposed: Counter[str] = Counter()
        # Candidates that have not ended yet, by id.
        self.running: dict[str, Candidate] = {}
        self.first_rung = scheduler.first_rung

    @property
    def num_proposed(self) -> int:
        """Return the number of candidates proposed for all models, also those that come first."""
        return self.proposed.total() + self._num_first

    @property
    def is_full(self) -> bool:
        """Return whether as many candidates as are allowed have been proposed."""
        return self._limit is not None and self.proposed.total() >= self._limit

    @property
    def races(self) -> bool:
        """Return whether candidates are raced within a rung."""
        return self._scheduler.races

    def propose(self, model: str) -> Proposal | None:
        """Return the next candidate of `model`, None if there is nothing to propose now."""
        found = next((one for one in self._first if one.model == model), None)
        if found is not None:
            self._first.remove(found)
            self._num_first += 1
            self.running[found.id] = found
            return Proposal(found, found.family if found.is_model_free else GIVEN)
        if self.is_full:
            return None
        proposal = self._proposer.propose(model)
        while proposal is not None and proposal.candidate.id in self._untold:
            for observation in self._untold.pop(proposal.candidate.id):
                self._proposer.observe(observation)
            proposal = self._proposer.propose(model)
        if proposal is not None:
            self.running[proposal.candidate.id] = proposal.candidate
            self.proposed[model] += 1
        return proposal

    def take(self, record: RungRecord, coarser: Sequence[RungRecord] = ()) -> Decision:
        """Report a candidate's result at a rung and return the decision.

        A repeated record changes nothing and gets the first decision again.

        Args:
            record: the result.
            coarser: results of the coarser programs made from it after its last rung.
        """
        known = self._scheduler.decided(record.candidate, record.rung)
        if known is not None:
            return known
        result = self._result(record, self.running[record.candidate])
        decision = self._scheduler.report(result)
        self._tell(record, coarser, result, decision)
        return decision

    def replay(self, record: RungRecord, coarser: Sequence[RungRecord], decision: Decision) -> None:
        """Replay a result with its recorded decision, which stands."""
        result = self._result(record, self.running[record.candidate])
        self._scheduler.replay(result, decision)
        self._tell(record, coarser, result, decision)

    def incumbents(self, model: str, rung: int, left: int) -> tuple[Incumbent, ...]:
        """Return the incumbents of a rung; see `Scheduler.incumbents`."""
        return self._scheduler.incumbents(model, rung, left=left)

    def _tell(
        self,
        record: RungRecord,
        coarser: Sequence[RungRecord],
        result: Result,
        decision: Decision,
    ) -> None:
        candidate = self.running[result.candidate]
        if decision.action != "promote":
            del self.running[result.candidate]
        goes_on, finished = decision.action == "promote", decision.action == "finish"
        seen = [self._observed(record, result, last=not goes_on, finished=finished)]
        for made in coarser:
            its = self._result(made, candidate)
            complete = its.score is not None and its.verdict != "loses"
            if complete:
                self._scheduler.note_finished(its)
            parent = result.candidate
            seen.append(self._observed(made, its, last=True, finished=complete, parent=parent))
        if result.candidate in self._untold:
            self._untold[result.candidate] += seen
            return
        for observation in seen:
            self._proposer.observe(observation)

    def _result(self, record: RungRecord, candidate: Candidate) -> Result:
        by_program = self._length == "program"
        return Result(
            candidate=record.candidate,
            model=candidate.model,
            rung=record.rung,
            score=record.score,
            bits=record.program_bits if by_program else record.payload_bits,
            verdict=record.verdict,
            against=record.against,
            gap=record.gap,
            left=record.left or 0,
            model_free=candidate.is_model_free,
        )

    @staticmethod
    def _observed(
        record: RungRecord, result: Result, *, last: bool, finished: bool, parent: str | None = None
    ) -> Observation:
        return Observation(
            candidate=result.candidate,
            model=result.model,
            rung=result.rung,
            last=last,
            finished=finished,
            score=result.score,
            bits=result.bits,
            num_examples=record.num_examples,
            seconds=record.seconds or 0.0,
            parent=parent,
        )
