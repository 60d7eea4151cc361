import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kilobit.search.schedulers.asha import MultiObjectiveAsha, first_layer, spread_order
from kilobit.search.schedulers.scheduler import Result


def rule_with(points: list[tuple[int, float]]) -> MultiObjectiveAsha:
    rule = MultiObjectiveAsha(num_rungs=3, eta=3)
    for i, (bits, score) in enumerate(points):
        rule.report(Result(f"c{i}", "m", 0, score, bits))
    return rule


def test_who_is_on_the_front_goes_on_where_there_is_room() -> None:
    rule = rule_with([(8, 0.1), (16, 0.2), (32, 0.05), (64, 0.05), (128, 0.05)])
    # Six results, two places; the new one is on the front with two others and far from the oldest.
    decision = rule.report(Result("new", "m", 0, 0.9, 1024))
    assert decision.action == "promote"
    assert decision.reason == "on front 1 of 6 results, rank 2, 2 may be promoted"


def test_who_is_beaten_waits_behind_the_front() -> None:
    rule = rule_with([(8, 0.5), (16, 0.6), (32, 0.7)])
    decision = rule.report(Result("new", "m", 0, 0.4, 8))
    assert decision.action == "stop"
    assert decision.reason == "behind 1 fronts of 4 results, 1 may be promoted"


def test_the_second_front_comes_after_the_whole_first() -> None:
    # Two places, one on the first front.
    rule = rule_with([(8, 0.9), (16, 0.2), (32, 0.1), (64, 0.1), (128, 0.1)])
    assert rule.report(Result("new", "m", 0, 0.8, 1024)).action == "stop"
    assert (
        rule_with([(8, 0.9), (256, 0.2), (256, 0.1), (256, 0.1), (256, 0.1)])
        .report(Result("new", "m", 0, 0.8, 16))
        .reason.startswith("on front 2 of 6 results, rank 2, 2 may be promoted")
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_first_layer_is_who_nobody_beats(points: list[tuple[int, int]]) -> None:
    bits, scores = (np.array(column, float) for column in zip(*points, strict=True))
    order = np.lexsort((np.arange(len(points)), -scores, bits))
    layer = {int(i) for i in order[first_layer(scores[order])]}
    for i, (b, s) in enumerate(points):
        beaten = any(
            b2 <= b and s2 >= s and ((b2, -s2) != (b, -s) or j < i)
            for j, (b2, s2) in enumerate(points)
            if j != i
        )
        assert (i in layer) == (not beaten)


def test_each_point_of_the_net_is_the_farthest_from_those_before() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.1], [9.0, 0.9], [10.0, 1.0], [5.0, 0.5]])
    assert spread_order(points, np.arange(5)) == [0, 3, 4, 1, 2]
    assert spread_order(points[:1], np.arange(1)) == [0]
    assert spread_order(np.zeros((3, 2)), np.array([2, 0, 1])) == [2, 0, 1]
