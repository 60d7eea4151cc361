"""What every proposer promises, and the ones that learn nothing."""

import json

import pytest

from kilobit.search.candidate import Candidate
from kilobit.search.proposers.proposer import Observation, ReplayError, replay
from kilobit.search.search import make_proposer
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


def by_default(chat: list[bool] | None = None, **changes: bool) -> Families:
    families = FAMILIES.model_dump(mode="json", exclude_none=True)
    for name in ("prompt", "lora"):
        families[name] |= changes
        families[name].pop("chat", None)
        if chat is not None:
            families[name]["chat"] = chat
    return Families.model_validate_json(json.dumps({k: families[k] for k in ("prompt", "lora")}))


@pytest.mark.parametrize("kind", KINDS)
def test_by_default_a_model_with_a_chat_template_is_asked_in_it(kind: str) -> None:
    count, models = min(60, COUNTS[kind]), ("base", "instruct")
    about = CONFIGS[kind], by_default(), TASK, models, 0, {"instruct"}
    found = [p.candidate for p in proposals(drive(make_proposer(*about), count, models=models))]
    assert len(found) == count
    # The first is the bare question, in the template too.
    assert [found[0], found[1]] == [
        Candidate(task="numbers", model="base"),
        Candidate(task="numbers", model="instruct", chat=True, turns=True),
    ]
    assert {(one.model, one.chat, one.turns) for one in found} == {
        ("base", False, False),
        ("instruct", True, True),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_that_says_so_is_asked_as_before_there_was_a_default(kind: str) -> None:
    count, said = min(60, COUNTS[kind]), ([True], [False], [False, True])
    for chat in said:
        about = CONFIGS[kind], by_default(chat, turns=False), TASK, ["m"], 0
        with_template = drive(make_proposer(*about, {"m"}), count)
        assert with_template == drive(make_proposer(*about), count)
        found = [p.candidate for p in proposals(with_template)]
        assert found[0] == Candidate(task="numbers", model="m")
        assert {one.chat for one in found[1:]} == set(chat)
        assert not any(one.turns for one in found)
