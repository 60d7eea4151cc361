import math
from collections.abc import Mapping

import pytest

from kilobit.search.front.complexity import (
    best_lower,
    certified_complexity,
    log2_bits,
    log2_ratios,
    spread,
)
from kilobit.search.front.points import FrontPoint
from tests.support.rows import certificate


def point(bits: int, lower: float | None, *, run: bool = True) -> FrontPoint:
    return FrontPoint(
        "r", "t", "m", "m", "c", "prompt", bits, 8, 0.99, 0.9, 1.0, 9, "search", True, None, "p",
        certificate=certificate(lower) if run else None,
    )  # fmt: skip


def test_certified_complexity_is_the_shortest_whose_lower_bound_reaches_the_target() -> None:
    points = [point(100, 0.4), point(200, 0.8), point(300, 0.85), point(50, None)]
    points += [point(10, None, run=False)]
    assert certified_complexity(points, 0.8) == 200
    assert certified_complexity(points, 0.81) == 300
    assert certified_complexity(points, 0.3) == 100
    assert certified_complexity(points, 0.9) is None
    assert best_lower(points) == 0.85
    assert best_lower(points[3:]) is None
    assert certified_complexity(points[3:], 0.0) is None
    assert best_lower([point(1, 0.0)]) == 0.0


def test_the_t_interval_equals_the_published_example() -> None:
    # Student 1908, the hours of sleep that ten patients gained by a drug; mean 2.33, and the
    # interval at level 0.95 is 0.90 to 3.76.
    found = spread([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    assert found.mean == pytest.approx(2.33)
    assert (found.low, found.high) == pytest.approx((0.8977, 3.7623), abs=5e-5)
    assert found.method == "t-interval"


def test_fewer_than_three_seeds_are_shown_as_they_are() -> None:
    found = spread([12.0, 11.0])
    assert (found.mean, found.low, found.high, found.method) == (11.5, 11.0, 12.0, "min - max")
    assert spread([]).mean is None
    with pytest.raises(ValueError, match="finite"):
        spread([1.0, math.nan])


def test_base_models_are_compared_seed_by_seed() -> None:
    these: Mapping[int, int | None] = {0: 4096, 1: 2048, 2: None, 3: 0}
    those: Mapping[int, int | None] = {0: 1024, 1: 2048, 2: 8, 4: 16}
    assert log2_bits(these) == {0: 12.0, 1: 11.0, 3: 0.0}
    assert log2_ratios(these, those) == {0: 2.0, 1: 0.0}
