from hypothesis import given
from hypothesis import strategies as st

from kilobit.search.schedulers.asha import Asha
from kilobit.search.schedulers.scheduler import Result


def asha() -> Asha:
    return Asha(num_rungs=3, eta=3)


def test_the_first_goes_on_and_a_worse_one_stops_and_says_why() -> None:
    rule = asha()
    assert rule.report(Result("a", "m", 0, 0.5, 8)).action == "promote"
    decision = rule.report(Result("b", "m", 0, 0.4, 4))
    assert decision.action == "stop"
    assert decision.reason == "rank 2 of 2 by score, 1 may be promoted"
    assert decision.compared_with == ("a",)


def test_of_two_equal_scores_the_shorter_goes_on_then_the_older() -> None:
    rule = asha()
    rule.report(Result("a", "m", 0, 0.5, 80))
    assert rule.report(Result("longer", "m", 0, 0.5, 81)).action == "stop"
    assert rule.report(Result("same", "m", 0, 0.5, 80)).action == "stop"
    assert rule.report(Result("shorter", "m", 0, 0.5, 79)).action == "promote"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60, unique=True))
def test_one_in_eta_goes_on_of_those_that_came_before(scores: list[int]) -> None:
    rule = asha()
    for i, score in enumerate(scores):
        decision = rule.report(Result(f"c{i}", "m", 0, score / 1000, 8))
        rank = sum(other > score for other in scores[:i])
        assert (decision.action == "promote") == (rank < max(1, (i + 1) // 3))
