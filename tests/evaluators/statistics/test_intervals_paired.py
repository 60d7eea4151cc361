"""Changes of the same examples: intervals, and verdicts that hold for all comparisons at once."""

import itertools

import numpy as np
import pytest
from scipy import stats

from kilobit.evaluators.statistics.intervals import holm, paired_change


def test_the_interval_is_students_for_the_mean_of_differences() -> None:
    rng = np.random.default_rng(0)
    with_, base = rng.normal(0.3, 1, 30), rng.normal(0, 1, 30)
    found = paired_change(with_.tolist(), base.tolist())
    expected = stats.ttest_rel(with_, base).confidence_interval(0.95)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high))
    assert found.change == pytest.approx(found.value - found.base) == with_.mean() - base.mean()
    assert paired_change([1.0], [0.0]).lower is None


def test_p_is_the_share_of_signs_that_give_as_much() -> None:
    differences = [0.5, -0.1, 0.3, 0.2, 0.9, 0.4, -0.2, 0.7]
    signs = np.array(list(itertools.product((-1, 1), repeat=8)))
    sums = np.abs(signs @ np.array(differences))
    exact = float((sums >= sum(differences) - 1e-9).mean())
    found = paired_change([*differences, 0.0, 0.0], [0.0] * 10)
    assert found.p == pytest.approx(exact, abs=0.01)
    # Only the examples that differ can say anything, and five of them never enough.
    assert paired_change([1.0] * 5 + [0.0] * 90, [0.0] * 95).p is None
    assert paired_change([1.0] * 6 + [0.0] * 90, [0.0] * 96).p == pytest.approx(2**-5, abs=0.01)


def test_no_verdict_without_a_difference_in_the_mean_of_noise() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(60):
        values = rng.integers(0, 2, (2, 40)).astype(float)
        p = paired_change(values[0], values[1]).p
        wrong += p is not None and p <= 0.05
    assert wrong <= 7


def test_holm_multiplies_by_what_is_left() -> None:
    assert holm([0.01, 0.5, 0.02]) == pytest.approx([0.03, 0.5, 0.04])
    assert holm([0.02, 0.021, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("values", "base", "message"),
    [
        ([], [], "can't be paired"),
        ([1.0], [1.0, 2.0], "1 values can't be"),
        ([float("nan")], [0.0], "finite"),
    ],
)
def test_what_can_not_be_compared_is_refused(
    values: list[float], base: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        paired_change(values, base)
