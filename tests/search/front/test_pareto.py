import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilobit.search.front.pareto import (
    GrowingFront,
    bjontegaard,
    complexity,
    hypervolume,
    pareto_front,
)


@dataclass(frozen=True)
class Point:
    bits: int
    score: float


POINTS = st.lists(st.builds(Point, st.integers(0, 6), st.sampled_from([0.0, 0.25, 0.5, 1.0])))


@given(POINTS)
def test_the_front_is_what_a_brute_force_finds(points: list[Point]) -> None:
    def beaten(p: Point) -> bool:
        return any(q.bits <= p.bits and q.score >= p.score and q != p for q in points)

    expected = {p for p in points if not beaten(p)}
    front = pareto_front(points)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [p.bits for p in front] == sorted(p.bits for p in front)


def test_complexity_is_the_shortest_length_that_reaches_the_target() -> None:
    front = [Point(0, 0.1), Point(40, 0.5), Point(800, 0.9)]
    assert [complexity(front, t) for t in (0.05, 0.5, 0.51, 0.95)] == [0, 40, 800, None]


def test_the_hypervolume_is_the_area_in_doublings_times_score() -> None:
    assert hypervolume([], 1024) == 0.0
    assert hypervolume([Point(1, 0.5)], 1024) == 5.0
    assert hypervolume([Point(1, 0.5), Point(32, 0.9)], 1024) == pytest.approx(5.0 + 5 * 0.4)
    # What is beaten, as long as the reference, or below it adds nothing; no bits count as one.
    more = [Point(0, 0.5), Point(64, 0.4), Point(1024, 1.0), Point(2048, 1.0)]
    assert hypervolume(more, 1024) == 5.0


@given(st.lists(st.builds(Point, st.integers(0, 2000), st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))))
def test_a_growing_front_has_the_area_of_all_that_came(points: list[Point]) -> None:
    front = GrowingFront(1024)
    for number, point in enumerate(points):
        before = front.area
        gained = front.add(point.bits, point.score)
        expected = hypervolume(points[: number + 1], 1024)
        assert front.area == pytest.approx(expected, abs=1e-9)
        assert gained == (expected > hypervolume(points[:number], 1024))
        assert (front.area > before) == gained


def test_the_difference_of_two_fronts_is_the_average_over_their_common_scores() -> None:
    one = [Point(8, 0.2), Point(16, 0.4), Point(64, 0.8)]
    other = [Point(8, 0.1), Point(32, 0.6), Point(64, 0.9), Point(9, 0.05)]
    # From 0.2 to 0.4 they need 16 and 32 bits, to 0.6 64 and 32, to 0.8 64 and 64.
    found = bjontegaard(one, other)
    assert found is not None
    assert (found.low, found.high) == (0.2, 0.8)
    assert found.doublings == pytest.approx((0.2 * -1 + 0.2 * 1 + 0.2 * 0) / 0.6, abs=1e-12)
    apart = bjontegaard([Point(8, 0.2), Point(16, 0.4)], other)
    assert apart is not None
    assert apart.doublings == pytest.approx(-1)
    assert bjontegaard(one, []) is None
    assert bjontegaard(one, [Point(4, 0.9), Point(5, 1.0)]) is None
    # A length below 1, as the net bits of a program without the model, counts as one bit.
    below = bjontegaard([Point(-9, 0.1), Point(0, 0.2)], [Point(4, 0.1), Point(8, 0.2)])
    assert below is not None
    assert below.doublings == pytest.approx(-3)


@given(POINTS, POINTS)
def test_the_difference_of_two_fronts_is_what_many_targets_find(
    one: list[Point], other: list[Point]
) -> None:
    found = bjontegaard(one, other)
    back = bjontegaard(other, one)
    fronts = pareto_front(one), pareto_front(other)
    if not all(fronts) or max(f[0].score for f in fronts) >= min(f[-1].score for f in fronts):
        assert found is back is None
        return
    assert found is not None
    assert back is not None
    assert found.doublings == pytest.approx(-back.doublings)
    steps = [found.low + (found.high - found.low) * (k + 0.5) / 400 for k in range(400)]
    each = [[complexity(points, step) for step in steps] for points in (one, other)]
    logs = [[math.log2(max(1, bits or 0)) for bits in row] for row in each]
    average = sum(a - b for a, b in zip(*logs, strict=True)) / 400
    assert found.doublings == pytest.approx(average, abs=0.02)
