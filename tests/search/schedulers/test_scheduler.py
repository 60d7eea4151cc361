"""What holds for every scheduler, driven as a run drives it."""

import math
import random

import pytest

from kilobit.search.candidate import RungConfig
from kilobit.search.schedulers.scheduler import Decision, Result, Scheduler
from kilobit.search.search import SchedulerConfig, make_scheduler

KINDS = ("bits_aware", "asha", "multi_objective", "full")
RUNGS = RungConfig(examples=6, count=3, eta=3)


def scheduler(kind: str) -> Scheduler:
    return make_scheduler(SchedulerConfig.model_validate({"kind": kind}), RUNGS)


def results(seed: int, number: int) -> list[Result]:
    """Return results of candidates that all go through all rungs, as rows tell them."""
    rng = random.Random(seed)
    found = []
    for i in range(number):
        bits, skill = rng.choice([8, 40, 400, 4000, 9000]), rng.random()
        for rung in range(RUNGS.count):
            score = round(min(1.0, max(0.0, skill + rng.gauss(0, 0.1))), 2)
            gap = None if not i else round(score - rng.random(), 2)
            against = None if gap is None else f"c{rng.randrange(i)}"
            result = Result(f"c{i}", "m", rung, score, bits, against=against, gap=gap)
            found.append(result)
    return found


def course(rule: Scheduler, reports: list[Result]) -> list[Decision]:
    """Return the decisions of those reports that a run would have come to."""
    decisions: list[Decision] = []
    next_rung: dict[str, int | None] = {}
    for result in reports:
        if next_rung.get(result.candidate, rule.first_rung) == result.rung:
            decision = rule.report(result)
            decisions.append(decision)
            goes_on = decision.action == "promote"
            next_rung[result.candidate] = result.rung + 1 if goes_on else None
    return decisions


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_reports_give_the_same_decisions(kind: str) -> None:
    reports = results(0, 60)
    decisions = course(scheduler(kind), reports)
    assert decisions == course(scheduler(kind), reports)
    assert {d.action for d in decisions} >= {"finish"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_scheduler_decides_as_the_one_that_went_on(kind: str) -> None:
    reports = results(1, 80)
    known = {(r.candidate, r.rung): r for r in reports}
    whole = course(scheduler(kind), reports)
    for cut in (0, 1, 7, len(whole) // 2, len(whole) - 1):
        again = scheduler(kind)
        for decision in whole[:cut]:
            again.replay(known[decision.candidate, decision.rung], decision)
        rest = [again.report(known[d.candidate, d.rung]) for d in whole[cut:]]
        assert rest == whole[cut:]
        for rung in range(RUNGS.count):
            assert again.incumbents("m", rung, left=0) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_repeated_report_changes_nothing(kind: str) -> None:
    rule, other = scheduler(kind), scheduler(kind)
    reports = results(2, 40)
    for result in reports:
        if result.rung == rule.first_rung:
            first = rule.report(result)
            assert rule.report(result) is first
            assert other.report(result) == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", [None, math.nan])
def test_without_a_score_a_candidate_stops_and_counts_for_nobody(
    kind: str, score: float | None
) -> None:
    rule, clean = scheduler(kind), scheduler(kind)
    rung = rule.first_rung
    decision = rule.report(Result("bad", "m", rung, score, 8))
    assert (decision.action, decision.reason) == ("stop", "it has no score")
    assert rule.report(Result("none", "m", rung, 0.5, None)).action == "stop"
    good = Result("good", "m", rung, 0.1, 80)
    assert rule.report(good) == clean.report(good)


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_not_compared_with_each_other(kind: str) -> None:
    rule, alone = scheduler(kind), scheduler(kind)
    rung = rule.first_rung
    rule.report(Result("a", "good", rung, 0.9, 8))
    poor = Result("b", "bad", rung, 0.0, 8)
    assert rule.report(poor) == alone.report(poor)
    assert not rule.incumbents("nobody", 0, left=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_rung_ends_a_candidate(kind: str) -> None:
    rule = scheduler(kind)
    decision = rule.report(Result("a", "m", RUNGS.count - 1, 0.0, 8))
    assert decision.action == "finish"


@pytest.mark.parametrize("kind", ["bits_aware", "asha", "multi_objective"])
def test_of_many_equal_candidates_not_all_go_on(kind: str) -> None:
    """A model that scores 0 everywhere must not take the whole budget."""
    rule = scheduler(kind)
    actions = []
    for i in range(60):
        gap = {} if not i else {"gap": 0.0, "against": "c0"}
        actions.append(rule.report(Result(f"c{i}", "m", 0, 0.0, 8, **gap)).action)  # type: ignore[arg-type]
    assert 1 <= actions.count("promote") <= 20


def test_full_evaluation_begins_at_the_last_rung() -> None:
    assert scheduler("full").first_rung == RUNGS.count - 1
    assert scheduler("asha").first_rung == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_no_model_is_promoted_and_changes_no_decision_by_rank(kind: str) -> None:
    reports = results(4, 40)
    free = [Result(f"free{i}", "m", r, 0.3, 8, model_free=True) for i in range(20) for r in (0, 1)]
    rule, without = scheduler(kind), scheduler(kind)
    assert {rule.report(one).action for one in free} == {"promote"}
    courses = ([(d.candidate, d.action) for d in course(one, reports)] for one in (rule, without))
    assert next(courses) == next(courses)
