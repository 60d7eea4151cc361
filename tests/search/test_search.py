"""A proposer and a scheduler are told the same; rows as a ledger has them drive both."""

from collections.abc import Sequence
from typing import Any

import pytest

from kilobit.search.candidate import Candidate
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.records import RungRecord
from kilobit.search.schedulers.asha import Asha, Full
from kilobit.search.schedulers.scheduler import Decision, Result
from kilobit.search.search import Search
from kilobit.search.settings import Length

ONE, TWO, THREE = (Candidate(task="t", model="m", max_new_tokens=n) for n in (1, 2, 3))
OTHER = Candidate(task="t", model="other")


class Listed:
    """Proposes given candidates in their order."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._waiting = list(candidates)
        self.seen: list[Observation] = []

    def propose(self, model: str) -> Proposal | None:
        mine = next((one for one in self._waiting if one.model == model), None)
        if mine is None:
            return None
        self._waiting.remove(mine)
        return Proposal(mine, "listed")

    def observe(self, observation: Observation) -> None:
        self.seen.append(observation)


class Noting(Asha):
    """The rule by scores, which notes what it is told besides."""

    def __init__(self, *, num_rungs: int, eta: int) -> None:
        super().__init__(num_rungs=num_rungs, eta=eta)
        self.finished: list[Result] = []

    def note_finished(self, result: Result) -> None:
        self.finished.append(result)


def begun(limit: int | None = None, length: Length = "program") -> tuple[Search, Listed, Noting]:
    """A search of three candidates of one model and one of another, of two rungs."""
    proposer, scheduler = Listed([ONE, TWO, THREE, OTHER]), Noting(num_rungs=2, eta=2)
    return Search(proposer, scheduler, length, limit), proposer, scheduler


def rung_record(
    candidate: Candidate, rung: int, score: float | None = 0.5, **more: Any
) -> RungRecord:
    about = {"candidate": candidate.id, "rung": rung, "score": score, "num_examples": 6}
    return RungRecord(**about | {"program_bits": 900, "payload_bits": 80} | more)


def seen(candidate: Candidate, rung: int, **changes: Any) -> Observation:
    values: dict[str, Any] = {
        "candidate": candidate.id, "model": candidate.model, "rung": rung, "last": False,
        "finished": False, "score": 0.5, "bits": 900, "num_examples": 6, "seconds": 0.0,
    }  # fmt: skip
    return Observation(**values | changes)


def test_candidates_are_counted_over_all_models_up_to_the_limit() -> None:
    search, _, _ = begun(limit=2)
    assert not search.is_full
    assert [p and p.candidate for p in map(search.propose, ("m", "other", "m"))] == [
        ONE,
        OTHER,
        None,
    ]
    assert search.is_full
    assert search.num_proposed == 2
    assert search.running == {ONE.id: ONE, OTHER.id: OTHER}


def test_a_proposer_with_nothing_to_propose_counts_nothing() -> None:
    search, _, _ = begun()
    assert search.propose("other") is not None
    assert search.propose("other") is None
    assert search.num_proposed == 1
    assert not search.is_full


def test_a_promoted_candidate_goes_on_and_a_finished_one_has_ended() -> None:
    search, proposer, _ = begun()
    search.propose("m")
    assert search.take(rung_record(ONE, 0, seconds=2.5)).action == "promote"
    assert search.running == {ONE.id: ONE}
    assert search.take(rung_record(ONE, 1, 0.6)).action == "finish"
    assert search.running == {}
    assert proposer.seen == [
        seen(ONE, 0, seconds=2.5),
        seen(ONE, 1, score=0.6, last=True, finished=True),
    ]


def test_a_stopped_candidate_has_ended_but_is_not_finished() -> None:
    search, proposer, _ = begun()
    search.propose("m")
    search.propose("m")
    search.take(rung_record(ONE, 0, 0.9))
    decision = search.take(rung_record(TWO, 0, 0.1))
    assert (decision.action, decision.compared_with) == ("stop", (ONE.id,))
    assert search.running == {ONE.id: ONE}
    assert proposer.seen[-1] == seen(TWO, 0, score=0.1, last=True)


def test_a_failed_candidate_is_told_of_without_score_and_bits() -> None:
    search, proposer, _ = begun()
    search.propose("m")
    failed = RungRecord(candidate=ONE.id, rung=0, num_examples=6)
    assert search.take(failed).action == "stop"
    assert proposer.seen == [seen(ONE, 0, score=None, bits=None, last=True)]


def test_a_repeated_row_gets_the_first_decision_and_is_not_told_again() -> None:
    search, proposer, _ = begun()
    search.propose("m")
    first = search.take(rung_record(ONE, 0, 0.5))
    assert search.take(rung_record(ONE, 0, 0.0)) is first
    assert len(proposer.seen) == 1
    # Also when it has ended.
    last = search.take(rung_record(ONE, 1))
    assert search.take(rung_record(ONE, 1)) is last
    assert len(proposer.seen) == 2


def test_a_row_of_a_candidate_that_was_not_proposed_is_an_error() -> None:
    search, _, _ = begun()
    with pytest.raises(KeyError, match=ONE.id):
        search.take(rung_record(ONE, 0))


def test_a_recorded_decision_stands_whatever_the_rule_would_decide_now() -> None:
    search, proposer, _ = begun()
    search.propose("m")
    search.propose("m")
    stopped = Decision(ONE.id, 0, "stop", "as recorded")
    search.replay(rung_record(ONE, 0, 0.9), (), stopped)
    assert search.running == {TWO.id: TWO}
    assert proposer.seen == [seen(ONE, 0, score=0.9, last=True)]
    assert search.take(rung_record(ONE, 0, 0.9)) is stopped
    # The replayed score counts in the comparison.
    assert search.take(rung_record(TWO, 0, 0.8)).action == "stop"


def test_coarser_programs_are_told_to_both_as_children_of_the_candidate() -> None:
    search, proposer, scheduler = begun()
    search.propose("m")
    search.take(rung_record(ONE, 0))
    made = [
        rung_record(TWO, 1, 0.4, program_bits=700),
        rung_record(THREE, 1, 0.3, program_bits=600, verdict="loses"),
        RungRecord(candidate=OTHER.id, rung=1, num_examples=6),
    ]
    search.take(rung_record(ONE, 1), made)
    assert [(r.candidate, r.model, r.score, r.bits) for r in scheduler.finished] == [
        (TWO.id, "m", 0.4, 700)
    ]
    told = [(o.candidate, o.model, o.last, o.finished, o.parent) for o in proposer.seen[2:]]
    assert told == [
        (TWO.id, "m", True, True, ONE.id),
        (THREE.id, "m", True, False, ONE.id),
        (OTHER.id, "m", True, False, ONE.id),
    ]


@pytest.mark.parametrize(("length", "bits"), [("program", 900), ("payload", 80)])
def test_the_length_that_counts_is_the_named_one(length: Length, bits: int) -> None:
    search, proposer, _ = begun(length=length)
    search.propose("m")
    search.take(rung_record(ONE, 0))
    assert [o.bits for o in proposer.seen] == [bits]


def test_first_rung_and_races_are_those_of_the_scheduler() -> None:
    search = Search(Listed([]), Full(num_rungs=3, eta=2), "program")
    assert (search.first_rung, search.races) == (2, False)
    assert search.incumbents("m", 2, 0) == ()


PRINTED = Candidate(task="t", model="m", constant="yes")


def test_what_needs_no_model_comes_first_and_counts_for_no_limit() -> None:
    proposer, scheduler = Listed([ONE, TWO, OTHER]), Noting(num_rungs=2, eta=2)
    search = Search(proposer, scheduler, "program", 2, [PRINTED])
    asked = ("other", "m", "m", "m")
    assert [p and (p.candidate, p.operator) for p in map(search.propose, asked)] == [
        (OTHER, "listed"),
        (PRINTED, "constant"),
        (ONE, "listed"),
        None,
    ]
    assert (search.proposed["m"], search.num_proposed) == (1, 3)


def test_what_needs_no_model_is_scored_to_the_end_and_nothing_learns_from_it() -> None:
    proposer, scheduler = Listed([ONE]), Noting(num_rungs=2, eta=2)
    search = Search(proposer, scheduler, "program", first=[PRINTED])
    for _ in range(2):
        search.propose("m")
    search.take(rung_record(ONE, 0, 0.9))
    # By its score it would not be promoted, and it takes no one's place.
    assert search.take(rung_record(PRINTED, 0, 0.1)).action == "promote"
    assert search.take(rung_record(PRINTED, 1, 0.1)).action == "finish"
    assert PRINTED.id not in search.running
    assert [one.candidate for one in proposer.seen] == [ONE.id]
    failed = Search(Listed([]), Noting(num_rungs=2, eta=2), "program", first=[PRINTED])
    failed.propose("m")
    assert failed.take(rung_record(PRINTED, 0, None)).action == "stop"


def test_a_given_candidate_that_the_proposer_proposes_too_is_tried_once_and_learned_from() -> None:
    proposer, scheduler = Listed([ONE, TWO]), Noting(num_rungs=1, eta=2)
    search = Search(proposer, scheduler, "program", 2, first=[ONE, THREE])
    assert [
        p and (p.candidate, p.operator) for p in (search.propose("m"), search.propose("m"))
    ] == [
        (ONE, "given"),
        (THREE, "given"),
    ]
    search.take(rung_record(ONE, 0, 0.9))
    search.take(rung_record(THREE, 0, 0.8))
    assert proposer.seen == []
    found = search.propose("m")
    assert found is not None
    assert found.candidate == TWO
    assert [(one.candidate, one.score) for one in proposer.seen] == [(ONE.id, 0.9)]
    assert (search.proposed["m"], search.num_proposed) == (1, 3)
    late = Listed([ONE])
    search = Search(late, Noting(num_rungs=1, eta=2), "program", first=[ONE])
    assert [search.propose("m") is None for _ in range(2)] == [False, True]
    search.take(rung_record(ONE, 0, 0.7))
    assert [one.score for one in late.seen] == [0.7]
