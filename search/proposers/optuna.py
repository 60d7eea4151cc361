"""Optuna's samplers by ask and tell: multi-objective TPE and NSGA-II, without storage or threads.

Both minimise log2 of bits and maximise the score. The space is defined during sampling: first the
family, then the values that it lists; numbers are ordered, all other values are categorical, and
demonstrations are one of `sets` seeded sets. A family takes part if its `candidates` is above 0;
the number has no other meaning here.

Optuna can't prune with several objectives, so a candidate counts with the bits and the score of the
rung where it ended, however low: for a prompt that score is unbiased, only noisier; for an adapter
it is the score after that much training. A candidate without a score is a failed trial, which the
samplers ignore. A candidate that is already known is a failed trial too, and the sampler is asked
again; TPE then compares fewer draws, so that it is less likely to repeat itself. After a few such
trials Optuna's random sampler replaces the sampler, in the same study.

Optuna is imported when the first of these proposers is made.
"""

import warnings
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from kilobit.search.adapter_methods import PRICED, AdapterSpec
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.front.pareto import log2_bits
from kilobit.search.proposers.grid import Sets, two_digits, unique
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.proposers.random import demonstration_set, first_candidate, searched
from kilobit.search.settings import Config
from kilobit.search.space import AdapterFamily, Families, PromptFamily
from kilobit.search.streams import stream, stream_seed
from kilobit.search.task import Task

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from kilobit.search.schedulers.scheduler import Action

# Numbers of draws TPE compares by expected improvement: 24 is Optuna's default, 1 a plain draw.
_DRAWS_COMPARED = (24, 8, 2, 1)
_MAX_RANDOM_DRAWS = 200


class TpeProposer(Config):
    """Optuna's multi-objective tree-structured Parzen estimator."""

    kind: Annotated[
        Literal["tpe"], Field(description="fewer bits and higher scores, arXiv 1907.10902")
    ]
    fresh: Annotated[int, Field(ge=1, description="random draws before it begins")] = 16
    sets: Sets = 8


class Nsga2Proposer(Config):
    """Optuna's NSGA-II, a genetic algorithm on the front."""

    kind: Annotated[
        Literal["nsga2"], Field(description="fewer bits and higher scores, Deb et al. 2002")
    ]
    population: Annotated[int, Field(ge=2, description="candidates per generation")] = 24
    sets: Sets = 8


class OptunaProposer:
    """Propose the candidates of an Optuna sampler, the one that adds nothing first."""

    def __init__(
        self,
        config: TpeProposer | Nsga2Proposer,
        families: Families,
        task: Task,
        models: Sequence[str],
        seed: int,
    ) -> None:
        self._config, self._families, self._task = config, searched(families), task
        self._seed = seed
        self._studies = {model: _study() for model in models}
        self._counts = dict.fromkeys(models, 0)
        self._trials: dict[str, Trial] = {}
        self._taken: set[str] = set()

    def propose(self, model: str) -> Proposal | None:
        """Return the sampler's candidate, or a random draw if the sampler repeats known ones."""
        count = self._counts[model]
        bare = first_candidate(self._families, self._task, model)
        found: Proposal | None
        if count == 0 and bare is not None and bare.id not in self._taken:
            found = Proposal(bare, "random")
        else:
            found = self._ask(model, count)
        if found is not None:
            self._counts[model] += 1
            self._taken.add(found.candidate.id)
        return found

    def observe(self, observation: Observation) -> None:
        """Record in the study the result of a candidate that has ended."""
        self._taken.add(observation.candidate)
        if not observation.last:
            return
        study = self._studies[observation.model]
        trial = self._trials.pop(observation.candidate, None)
        if trial is None:
            return
        if observation.score is None or observation.bits is None:
            _fail(study, trial)
        else:
            study.tell(trial, (log2_bits(observation.bits), observation.score))

    def _ask(self, model: str, count: int) -> Proposal | None:
        study = self._studies[model]
        for operator, sampler in self._samplers(model, count):
            study.sampler = sampler
            trial = study.ask()
            candidate = self._walk(trial, model)
            if candidate.id not in self._taken:
                self._trials[candidate.id] = trial
                return Proposal(candidate, operator)
            _fail(study, trial)
        return None

    def _samplers(self, model: str, count: int) -> Iterator[tuple[str, "BaseSampler"]]:
        """Yield the names of operators and their samplers, in the order in which they are asked."""
        from optuna.samplers import RandomSampler

        # New samplers for each draw: a random stream depends on names, not on earlier draws.
        name = (self._seed, self._config.kind, model, count)
        for compared in _DRAWS_COMPARED:
            seed = stream_seed(*name, compared) % (1 << 32)
            yield self._config.kind, _sampler(self._config, seed, compared)
        sampler = RandomSampler(stream_seed(*name) % (1 << 32))
        yield from repeat(("random", sampler), _MAX_RANDOM_DRAWS)

    def _walk(self, trial: "Trial", model: str) -> Candidate:
        """Return the candidate of a trial, defining its space on the way."""
        name = _choice(trial, "family", list(self._families))
        family = self._families[name]
        prefix = f"{name}."
        count = _level(trial, prefix + "demonstrations", family.demonstrations)
        number = _choice(trial, prefix + "set", list(range(self._config.sets))) if count else 0
        prompt = Prompt(
            instruction=_choice(trial, prefix + "instruction", family.instructions),
            demonstrations=demonstration_set(self._task, self._seed, count, number),
        )
        adapter = self._adapter(trial, name, family, model)
        chat = _choice(trial, prefix + "chat", family.chats)
        found = Candidate(
            task=self._task.name,
            model=model,
            prompt=prompt,
            adapter=adapter,
            max_new_tokens=_choice(trial, prefix + "max_new_tokens", family.max_new_tokens),
            postprocess=_steps(trial, prefix, family),
        )
        return family.in_chat(found, chat)

    def _adapter(
        self, trial: "Trial", name: str, family: PromptFamily, model: str
    ) -> AdapterSpec | None:
        if not isinstance(family, AdapterFamily):
            return None
        prefix = f"{name}."
        shape = {
            field: (_level if field in ("rank", "size") else _choice)(
                trial, prefix + field, choices
            )
            for field, choices in family.shapes().items()
        }
        rate = family.rates(name)
        training = _choice(trial, prefix + "training", family.training)
        price = None
        if training in PRICED:
            price = _level(trial, prefix + "nats_per_kbit", family.nats_per_kbit)
        return AdapterSpec(
            method=name,
            learning_rate=two_digits(
                trial.suggest_float(prefix + "learning_rate", rate.low, rate.high, log=True)
            ),
            relative=family.relative,
            ratio=family.rate_ratio(name),
            steps=_level(trial, prefix + "steps", family.steps),
            batch_size=family.batch_size,
            seed=stream(self._seed, "adapter", model, name).randrange(1 << 31),
            training=training,
            nats_per_kbit=price,
            **shape,
        )


def _choice(trial: "Trial", name: str, values: Sequence[Any]) -> Any:
    """Return the trial's choice among values that have no order."""
    found = unique(values)
    return (
        found[trial.suggest_categorical(name, list(range(len(found))))] if found[1:] else found[0]
    )


def _level(trial: "Trial", name: str, values: Sequence[Any]) -> Any:
    """Return the trial's choice among numbers, known to the sampler by their order."""
    found = sorted(set(values))
    return found[trial.suggest_int(name, 0, len(found) - 1)] if found[1:] else found[0]


def _steps(trial: "Trial", prefix: str, family: PromptFamily) -> tuple[str, ...]:
    listed: tuple[str, ...] = _choice(trial, prefix + "postprocess", family.postprocess)
    combine = unique(family.postprocess_combine)
    most = min(family.postprocess_most, len(combine))
    more = [_choice(trial, f"{prefix}step{i}", [None, *combine]) for i in range(most)]
    return listed + tuple(step for step in unique(more) if step is not None)


def _study() -> "Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=["minimize", "maximize"], study_name="kilobit")


def _fail(study: "Study", trial: "Trial") -> None:
    from optuna.trial import TrialState

    study.tell(trial, state=TrialState.FAIL)


def _sampler(config: TpeProposer | Nsga2Proposer, seed: int, compared: int) -> "BaseSampler":
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import NSGAIISampler, TPESampler

    if isinstance(config, Nsga2Proposer):
        return NSGAIISampler(population_size=config.population, seed=seed)
    with warnings.catch_warnings():
        # Joint models of conditional parameters (`group`) are experimental since 2021.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            n_startup_trials=config.fresh,
            n_ei_candidates=compared,
            multivariate=True,
            group=True,
            seed=seed,
        )


class BitsAwarePruner:
    """Bits-aware successive halving as a pruner of Optuna's, for objectives of the user's own.

    The objective says the trial's length by `trial.set_user_attr("bits", BITS)`, and reports a mean
    score from 0 to 1 at the steps 0, 1, ..., which are the rungs. In a study with one direction,
    which has to be "maximize", `trial.report` and `trial.should_prune` work as with any pruner.
    Reports are read from the study, so a study that is loaded again goes on where it was, and
    processes that share a storage see each other's results. Optuna lets no trial report in a study
    with several directions; there `stops` is told the score.

    Args:
        sizes: number of examples that a score is the mean of, for each rung.
        eta: one in `eta` may go on where the number is limited.
        trained: no more training changes a trial; see `RungJudge`.

    Raises:
        ValueError: if `sizes` or `eta` is out of range.
    """

    def __init__(self, sizes: Sequence[int], *, eta: int = 3, trained: bool = False) -> None:
        from kilobit.search.schedulers.bits_aware import RungJudge

        self._judge = RungJudge(sizes, eta=eta, trained=trained)

    def prune(self, study: "Study", trial: "FrozenTrial") -> bool:
        """Return whether the trial is to be pruned after its last report; Optuna calls this.

        Raises:
            ValueError: if the study minimises, the trial has no bits, or a report is out of range.
        """
        if study.direction.name != "MAXIMIZE":
            raise ValueError('the study minimises: make it by direction="maximize"')
        if trial.last_step is None:
            return False
        for rung, other in sorted(
            ((rung, one) for one in study.get_trials(deepcopy=False) for rung in _reports(one)),
            key=lambda pair: (pair[0], pair[1].number),
        ):
            last = other.last_step == rung
            if other.number == trial.number or (last and not other.state.is_finished()):
                continue
            action: Action = "stop" if last and other.state.name != "COMPLETE" else "promote"
            score = other.intermediate_values[rung]
            self._judge.replay(str(other.number), rung, score, other.user_attrs["bits"], action)
        reports = sorted(trial.intermediate_values.items())
        return [self._stops(trial, rung, score) for rung, score in reports][-1]

    def stops(self, trial: "Trial", rung: int, score: float) -> bool:
        """Return whether a trial is to be pruned after a rung, in a study of any directions.

        Raises:
            ValueError: if the trial has no bits, or the rung or the score is out of range.
        """
        return self._stops(trial, rung, score)

    def _stops(self, trial: "Trial | FrozenTrial", rung: int, score: float) -> bool:
        bits = trial.user_attrs.get("bits")
        if not isinstance(bits, int):
            raise ValueError(
                f'trial {trial.number} has no length: call trial.set_user_attr("bits", BITS) '
                "before it is pruned"
            )
        return self._judge.judge(str(trial.number), rung, score, bits).action == "stop"


def _reports(trial: "FrozenTrial") -> list[int]:
    """Return the rungs that a trial with a length has reported, in their order."""
    return sorted(trial.intermediate_values) if "bits" in trial.user_attrs else []
