import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
import pytest

from kilobit.search.proposers.optuna import (
    BitsAwarePruner,
    Nsga2Proposer,
    OptunaProposer,
    TpeProposer,
)
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.space import Families
from tests.conftest import REPOSITORY
from tests.support.worlds import CONFIGS, FAMILIES, TASK, drive, make

SMALL = Families.model_validate(
    {"prompt": {"candidates": 9, "instructions": ("", "A", "B", "C"), "demonstrations": (0,)}}
)


def made(kind: str, families: Families = FAMILIES) -> OptunaProposer:
    config = CONFIGS[kind]
    assert isinstance(config, TpeProposer | Nsga2Proposer)
    return OptunaProposer(config, families, TASK, ["m"], 0)


def asked(proposer: OptunaProposer) -> Proposal:
    found = proposer.propose("m")
    assert found is not None
    return found


def ended(proposal: Proposal, score: float | None, bits: int | None, rung: int = 0) -> Observation:
    return Observation(proposal.candidate.id, "m", rung, True, False, score, bits, 10, 1.0)


def test_optuna_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys\n"
        "import kilobit.cluster.sweep.sweep\n"
        "from kilobit.search.search import make_proposer\n"
        "print('optuna' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "False\n"


def test_optuna_says_nothing(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    for kind in ("tpe", "nsga2"):
        drive(make(kind), 12)
    assert capfd.readouterr() == ("", "")
    assert not [str(w.message) for w in recwarn.list]


@pytest.mark.parametrize("kind", ["tpe", "nsga2"])
def test_a_study_is_told_the_logarithm_of_bits_and_the_score(kind: str) -> None:
    proposer = made(kind)
    # The first adds nothing to the model and is none of the sampler's.
    proposer.observe(ended(asked(proposer), 0.1, 4096))
    one = asked(proposer)
    assert (one.operator, one.parent) == (kind, None)
    proposer.observe(ended(one, 0.75, 4096))
    trials = proposer._studies["m"].get_trials()
    assert [(t.state.name, t.values) for t in trials] == [("COMPLETE", [12.0, 0.75])]


@pytest.mark.parametrize("kind", ["tpe", "nsga2"])
@pytest.mark.parametrize(("score", "bits"), [(None, None), (0.5, None), (None, 800)])
def test_a_candidate_without_score_or_bits_is_a_failed_trial(
    kind: str, score: float | None, bits: int | None
) -> None:
    proposer = made(kind)
    asked(proposer)
    proposer.observe(ended(asked(proposer), score, bits))
    assert [t.state.name for t in proposer._studies["m"].get_trials()] == ["FAIL"]


def test_a_result_counts_only_when_the_candidate_has_ended() -> None:
    proposer = made("tpe")
    asked(proposer)
    one = asked(proposer)
    goes_on = Observation(one.candidate.id, "m", 0, False, False, 0.2, 1024, 10, 1.0)
    proposer.observe(goes_on)
    (trial,) = proposer._studies["m"].get_trials()
    assert trial.state.name == "RUNNING"
    proposer.observe(ended(one, 0.5, 1024, rung=1))
    # A result that comes once more changes nothing.
    proposer.observe(ended(one, 0.9, 1024, rung=1))
    (trial,) = proposer._studies["m"].get_trials()
    assert (trial.state.name, trial.values) == ("COMPLETE", [10.0, 0.5])


@pytest.mark.parametrize("kind", ["tpe", "nsga2"])
def test_a_small_space_is_proposed_whole_and_then_nothing_is(kind: str) -> None:
    proposer = made(kind, SMALL)
    found = [asked(proposer) for _ in range(4)]
    assert {p.candidate.prompt.instruction for p in found} == {"", "A", "B", "C"}
    assert {p.operator for p in found} <= {kind, "random"}
    assert found[0].operator == "random"
    assert proposer.propose("m") is None
    for proposal in found:
        proposer.observe(ended(proposal, 0.5, 1024))
    assert proposer.propose("m") is None


def test_a_random_draw_in_place_of_the_samplers_is_told_to_the_study() -> None:
    # Of these seeds some draw at random because the sampler repeats itself.
    for seed in range(40):
        config = CONFIGS["nsga2"]
        assert isinstance(config, Nsga2Proposer)
        proposer = OptunaProposer(config, SMALL, TASK, ["m"], seed)
        found = [asked(proposer) for _ in range(4)]
        if "random" not in {p.operator for p in found[1:]}:
            continue
        for proposal in found:
            proposer.observe(ended(proposal, 0.5, 1024))
        trials = proposer._studies["m"].get_trials()
        assert [t.values for t in trials if t.state.name == "COMPLETE"] == [[10.0, 0.5]] * 3
        return
    raise AssertionError("no seed led to a random draw")


def objective(pruner: BitsAwarePruner | None = None) -> Callable[[optuna.Trial], Any]:
    """Return an objective whose even trials are short and good, the others long and bad."""

    def run(trial: optuna.Trial) -> Any:
        good = trial.number % 2 == 0
        bits, score = (100, 0.8) if good else (200, 0.3)
        trial.set_user_attr("bits", bits)
        for rung in range(2):
            if pruner is None:
                trial.report(score, rung)
            if pruner.stops(trial, rung, score) if pruner else trial.should_prune():
                raise optuna.TrialPruned
        return score if pruner is None else (score, bits)

    return run


def test_the_pruner_prunes_what_is_longer_and_worse_also_after_the_study_is_loaded_again() -> None:
    storage = optuna.storages.InMemoryStorage()
    about: dict[str, Any] = {"storage": storage, "study_name": "s"}
    make = partial(BitsAwarePruner, [100, 300], trained=True)
    study = optuna.create_study(direction="maximize", pruner=make(), **about)
    study.optimize(objective(), n_trials=1)
    # A pruner that has seen nothing reads the study, so even its first trial is compared.
    again = optuna.load_study(pruner=make(), **about)
    again.optimize(objective(), n_trials=2)
    assert [trial.state.name for trial in again.trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert [trial.last_step for trial in again.trials] == [1, 0, 0]


def test_the_pruner_works_in_a_study_with_two_directions() -> None:
    pruner = BitsAwarePruner([100, 300], trained=True)
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.optimize(objective(pruner), n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]


def test_the_pruner_refuses_a_study_that_minimises_and_a_trial_without_bits() -> None:
    pruner = BitsAwarePruner([100, 300])
    study = optuna.create_study(direction="minimize", pruner=pruner)
    trial = study.ask()
    trial.report(0.5, 0)
    with pytest.raises(ValueError, match="the study minimises"):
        trial.should_prune()
    with pytest.raises(ValueError, match="trial 0 has no length"):
        pruner.stops(trial, 0, 0.5)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    trial = study.ask()
    assert not trial.should_prune()
    trial.report(0.5, 0)
    with pytest.raises(ValueError, match="trial 0 has no length"):
        trial.should_prune()
