"""What every proposer promises, and the ones that learn nothing."""

import subprocess
import sys
from collections import Counter

import pytest

from kilobit.search.candidate import Candidate
from kilobit.search.proposers.config import DescentProposer, GridProposer, check_proposer
from kilobit.search.proposers.grid import log_points
from kilobit.search.proposers.proposer import Observation, ReplayError, replay
from kilobit.search.proposers.registry import make_proposer
from kilobit.search.space import Families, LogRange, draw_candidates
from kilobit.search.streams import stream
from tests.conftest import REPOSITORY
from tests.support.worlds import (
    CONFIGS,
    FAMILIES,
    TASK,
    assert_allowed,
    drive,
    make,
    proposals,
    smooth,
)

# TPE takes 0.1 s a proposal, the others less than a millisecond.
COUNTS = {"tpe": 24, "nsga2": 80, "random": 800, "grid": 800, "evolution": 2000, "descent": 1000}
KINDS = tuple(CONFIGS)


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_are_allowed_and_never_repeat(kind: str) -> None:
    models = ("a", "b")
    found = proposals(drive(make(kind, models=models), COUNTS[kind], models=models))
    assert len(found) == COUNTS[kind]
    assert len({p.candidate.id for p in found}) == len(found)
    for proposal in found:
        assert_allowed(proposal.candidate)
    assert {p.candidate.model for p in found} == {"a", "b"}
    assert [p.candidate for p in found[:2]] == [Candidate(task="numbers", model=m) for m in models]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_calls_give_the_same_proposals_and_another_seed_others(kind: str) -> None:
    count = min(60, COUNTS[kind])
    first = drive(make(kind), count, smooth)
    assert first == drive(make(kind), count, smooth)
    assert first != drive(make(kind, seed=1), count, smooth)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_proposer_goes_on_as_the_recorded_one(kind: str) -> None:
    count = min(100, COUNTS[kind])
    recorded = make(kind)
    events = drive(recorded, count)
    expected = [recorded.propose("m") for _ in range(5)]
    again = make(kind)
    replay(again, events[: len(events) // 2])
    for event in events[len(events) // 2 :]:
        if isinstance(event, Observation):
            again.observe(event)
        else:
            # Not the candidate alone: what made it and from what, too.
            assert again.propose("m") == event
    assert [again.propose("m") for _ in range(5)] == expected


def test_a_record_of_another_search_is_refused() -> None:
    events = drive(make("evolution"), 10)
    with pytest.raises(ReplayError, match="is not proposed again"):
        replay(make("evolution", seed=1), events)


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_that_came_from_elsewhere_is_not_proposed(kind: str) -> None:
    count = min(30, COUNTS[kind])
    known = proposals(drive(make(kind), count))
    proposer = make(kind)
    for proposal in known:
        proposer.observe(Observation(proposal.candidate.id, "m", 0, True, True, 0.5, 4000, 10, 1.0))
    after = proposals(drive(proposer, count, seed=3))
    assert not {p.candidate.id for p in after} & {p.candidate.id for p in known}


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_that_is_used_up_ends_the_search(kind: str) -> None:
    small = Families.model_validate(
        {"prompt": {"candidates": 50, "instructions": ("", "A", "B"), "demonstrations": (0,)}}
    )
    proposer = make(kind, families=small)
    if kind in ("evolution", "descent"):
        # Programs evolve beyond what is listed; without results nothing can.
        found = [proposer.propose("m") for _ in range(6)]
    else:
        found = [*proposals(drive(proposer, 60)), proposer.propose("m"), proposer.propose("m")]
    assert [p is None for p in found[:6]] == [False, False, False, *[True] * (len(found) - 3)]


def test_random_is_the_draw_of_old() -> None:
    models = ("a", "b")
    proposer = make("random", models=models)
    found = [p.candidate for m in models * 850 if (p := proposer.propose(m)) is not None]
    assert found == draw_candidates(FAMILIES, TASK, list(models), 0)


def test_a_family_without_candidates_takes_no_part() -> None:
    some = Families.model_validate({"prompt": {"candidates": 0}, "lora": {"candidates": 40}})
    for kind in ("tpe", "evolution"):
        found = proposals(drive(make(kind, families=some), 30))
        assert {p.candidate.family for p in found} == {"lora"}


def test_a_grid_holds_every_combination_once() -> None:
    families = Families.model_validate(
        {
            "prompt": {
                "candidates": 1000,
                "instructions": ("", "A", "A"),
                "demonstrations": (0, 2),
                "postprocess": ((), ("lower",)),
                "postprocess_combine": ("upper", "last_word"),
            },
            "lora": {
                "candidates": 1000,
                "rank": (1, 2),
                "training": ("plain", "rate", "bits"),
                "nats_per_kbit": (0.1, 0.2),
                "learning_rate": {"low": 0.01, "high": 0.1},
            },
        }
    )
    config = GridProposer(kind="grid", points=3, sets=2)
    proposer = make_proposer(config, families, TASK, ["m"], 0)
    found = [p.candidate for _ in range(400) if (p := proposer.propose("m")) is not None]
    assert Counter(c.family for c in found) == {"prompt": 2 * (1 + 2) * 2 * 5, "lora": 2 * 5 * 3}
    assert len({c.id for c in found}) == len(found)
    adapters = [c.adapter for c in found if c.adapter]
    assert {a.learning_rate for a in adapters} == {0.01, 0.032, 0.1}
    assert {(a.training, a.nats_per_kbit) for a in adapters} == {
        ("plain", None), ("rate", 0.1), ("rate", 0.2), ("bits", 0.1), ("bits", 0.2),
    }  # fmt: skip
    assert len({a.seed for a in adapters}) == 1
    few = families.model_copy(
        update={"lora": families.lora and families.lora.model_copy(update={"candidates": 7})}
    )
    proposer = make_proposer(config, few, TASK, ["m"], 0)
    found = [p.candidate for _ in range(400) if (p := proposer.propose("m")) is not None]
    assert Counter(c.family for c in found)["lora"] == 7


def test_a_grid_has_its_points_on_a_logarithmic_axis() -> None:
    assert log_points(LogRange(low=1e-3, high=1e-1), 3) == [1e-3, 1e-2, 1e-1]
    assert log_points(LogRange(low=1e-3, high=1e-1), 1) == [1e-2]
    assert log_points(LogRange(low=0.02, high=0.02), 5) == [0.02]


def test_descent_needs_prompts_and_their_costs() -> None:
    with pytest.raises(ValueError, match="descent needs prompt_bits"):
        make_proposer(CONFIGS["descent"], FAMILIES, TASK, ["m"], 0)
    bare = Families.model_validate({"prompt": {"candidates": 4}})
    with pytest.raises(ValueError, match=r"give families\.prompt `candidates` above 0"):
        check_proposer(DescentProposer(kind="descent"), bare, ends=True)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_proposer_that_ends_may_go_without_a_budget(kind: str) -> None:
    if kind in ("random", "grid"):
        check_proposer(CONFIGS[kind], FAMILIES, ends=False)
        return
    check_proposer(CONFIGS[kind], FAMILIES, ends=True)
    with pytest.raises(ValueError, match=f"{kind} never ends by itself: give budget.candidates"):
        check_proposer(CONFIGS[kind], FAMILIES, ends=False)


def test_optuna_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys\n"
        "import kilobit.cluster.sweep.sweep\n"
        "from kilobit.search.proposers.registry import make_proposer\n"
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


def test_streams_are_named_by_model() -> None:
    # Results of one model change nothing for another.
    quiet, busy = (make("evolution", models=("a", "b")) for _ in range(2))
    drive(busy, 40, models=("a",))
    assert [quiet.propose("b") for _ in range(8)] == [busy.propose("b") for _ in range(8)]
    assert stream(0, "evolution", "a", 1).random() != stream(0, "evolution", "b", 1).random()
