"""What every proposer promises, and the ones that learn nothing."""

import pytest

from kilobit.search.candidate import Candidate
from kilobit.search.proposers.proposer import Observation, ReplayError, replay
from kilobit.search.space import Families, draw_candidates
from kilobit.search.streams import stream
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
COUNTS = {"tpe": 24, "nsga2": 80, "random": 800, "grid": 800, "evolution": 2000}
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
    if kind == "evolution":
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


def test_streams_are_named_by_model() -> None:
    # Results of one model change nothing for another.
    quiet, busy = (make("evolution", models=("a", "b")) for _ in range(2))
    drive(busy, 40, models=("a",))
    assert [quiet.propose("b") for _ in range(8)] == [busy.propose("b") for _ in range(8)]
    assert stream(0, "evolution", "a", 1).random() != stream(0, "evolution", "b", 1).random()
