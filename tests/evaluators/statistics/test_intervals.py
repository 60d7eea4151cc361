import pytest

from kilobit.evaluators.statistics.intervals import mean_interval
from kilobit.search.task import Interval


def test_wilson_interval_equals_the_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263, Wilson score method.
    interval = mean_interval([1.0] * 81 + [0.0] * 182)
    assert interval.lower == pytest.approx(0.2553, abs=5e-5)
    assert interval.upper == pytest.approx(0.3662, abs=5e-5)


def test_one_example_has_a_score_but_no_interval() -> None:
    assert mean_interval([1.0]) == Interval(1.0, None, None)


@pytest.mark.parametrize("scores", [[], [1.2], [float("nan")]])
def test_scores_that_are_none_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no scores|outside"):
        mean_interval(scores)
