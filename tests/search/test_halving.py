import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.halving import Halving


def halving(**changes: object) -> Halving:
    return Halving(**{"num_rungs": 3, "eta": 3} | changes)  # type: ignore[arg-type]


def test_the_first_candidate_goes_on_and_the_last_rung_ends_it() -> None:
    rule = halving()
    actions = [rule.report("a", model="m", rung=r, score=0.1, bits=8).action for r in range(3)]
    assert actions == ["promote", "promote", "finish"]


def test_a_worse_longer_candidate_stops_and_says_why() -> None:
    rule = halving()
    rule.report("short", model="m", rung=0, score=0.5, bits=8)
    decision = rule.report("long", model="m", rung=0, score=0.4, bits=80)
    assert decision.action == "stop"
    assert decision.reason == "rank 2 of 2 no longer than it, 1 may go on"
    assert decision.compared_with == ("short",)


def test_a_short_candidate_is_never_stopped_by_a_longer_one() -> None:
    rule = halving()
    rule.report("long", model="m", rung=0, score=0.9, bits=80)
    assert rule.report("short", model="m", rung=0, score=0.1, bits=8).action == "promote"
    plain = halving(length_aware=False)
    plain.report("long", model="m", rung=0, score=0.9, bits=80)
    assert plain.report("short", model="m", rung=0, score=0.1, bits=8).action == "stop"


def test_models_are_not_compared_with_each_other() -> None:
    rule = halving()
    rule.report("a", model="good", rung=0, score=0.9, bits=8)
    assert rule.report("b", model="bad", rung=0, score=0.0, bits=8).action == "promote"


def test_of_two_equal_scores_the_shorter_goes_on() -> None:
    rule = halving()
    rule.report("short", model="m", rung=0, score=0.0, bits=8)
    assert rule.report("long", model="m", rung=0, score=0.0, bits=9).action == "stop"
    assert rule.report("same", model="m", rung=0, score=0.0, bits=8).action == "stop"
    assert rule.report("shorter", model="m", rung=0, score=0.0, bits=0).action == "promote"


def test_where_length_does_not_count_it_still_breaks_ties() -> None:
    rule = halving(length_aware=False)
    rule.report("long", model="m", rung=0, score=0.5, bits=80)
    assert rule.report("short", model="m", rung=0, score=0.5, bits=8).action == "promote"
    assert rule.report("longer", model="m", rung=0, score=0.5, bits=800).action == "stop"


@pytest.mark.parametrize("score", [None, math.nan])
def test_a_candidate_without_a_score_stops_and_counts_for_nobody(score: float | None) -> None:
    rule = halving()
    assert rule.report("bad", model="m", rung=0, score=score, bits=8).action == "stop"
    after = rule.report("good", model="m", rung=0, score=0.0, bits=8)
    assert (after.action, after.compared_with) == ("promote", ())


def test_a_repeated_report_gets_the_first_answer() -> None:
    rule = halving()
    first = rule.report("a", model="m", rung=0, score=0.2, bits=8)
    rule.report("b", model="m", rung=0, score=0.9, bits=8)
    assert rule.report("a", model="m", rung=0, score=0.2, bits=8) is first
    # And it is not counted twice among the rivals of those that follow.
    assert rule.report("c", model="m", rung=0, score=0.1, bits=8).compared_with == ("b", "a")


def test_a_decision_names_the_best_of_many_rivals_and_ranks_among_all() -> None:
    rule = halving()
    for number in range(40):
        rule.report(f"c{number}", model="m", rung=0, score=number / 100, bits=8)
    decision = rule.report("last", model="m", rung=0, score=0.0, bits=8)
    assert decision.compared_with == tuple(f"c{number}" for number in range(39, 23, -1))
    assert decision.reason.startswith("rank 41 of 41")


def test_a_replayed_result_counts_as_one_that_was_reported() -> None:
    rule, again = halving(), halving()
    for name, score, bits in (("a", 0.5, 8), ("b", None, None), ("c", math.nan, 8)):
        decision = rule.report(name, model="m", rung=0, score=score, bits=bits)
        again.replay(decision, model="m", score=score, bits=bits)
        assert again.report(name, model="m", rung=0, score=score, bits=bits) is decision
    new = [r.report("d", model="m", rung=0, score=0.4, bits=8) for r in (rule, again)]
    assert new[0] == new[1]
    assert new[0].compared_with == ("a",)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40),
    st.integers(2, 4),
)
def test_who_goes_on_is_who_a_brute_force_ranks_high_enough(
    reports: list[tuple[int, int]], eta: int
) -> None:
    rule = Halving(num_rungs=2, eta=eta)
    for i, (score, bits) in enumerate(reports):
        decision = rule.report(str(i), model="m", rung=0, score=score / 4, bits=bits)
        rivals = [(s, b, j) for j, (s, b) in enumerate(reports[: i + 1]) if b <= bits]
        ranked = sorted(rivals, key=lambda r: (-r[0], r[1], r[2]))
        places = max(1, len(rivals) // eta)
        assert (decision.action == "promote") is ((score, bits, i) in ranked[:places])


def test_about_one_in_eta_goes_on_in_a_large_field() -> None:
    rule = Halving(num_rungs=2, eta=3, length_aware=False)
    scores = [(i * 617) % 1000 / 1000 for i in range(999)]
    actions = [
        rule.report(str(i), model="m", rung=0, score=s, bits=8).action for i, s in enumerate(scores)
    ]
    assert 320 <= actions.count("promote") <= 345
