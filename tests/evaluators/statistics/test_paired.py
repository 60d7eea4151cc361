"""Changes of the same examples: intervals, and verdicts that hold for all comparisons at once."""

import itertools

import numpy as np
import pytest
from scipy import stats

from kilobit.evaluators.statistics.paired import (
    _share_as_far,
    _tango,
    holm,
    paired_change,
    paired_difference,
)


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


def pairs(both: int, better: int, worse: int, neither: int) -> tuple[list[float], list[float]]:
    counts = {(1.0, 1.0): both, (1.0, 0.0): better, (0.0, 1.0): worse, (0.0, 0.0): neither}
    table = [pair for pair, number in counts.items() for _ in range(number)]
    return [one for one, _ in table], [two for _, two in table]


@pytest.mark.parametrize(
    ("better", "worse"), [(0, 0), (1, 0), (5, 0), (12, 4), (4, 12), (30, 30), (61, 40)]
)
def test_scores_of_0_and_1_are_compared_by_mcnemars_exact_test(better: int, worse: int) -> None:
    found = paired_difference(*pairs(20, better, worse, 17))
    expected = 1.0 if better == worse == 0 else stats.binomtest(better, better + worse).pvalue
    assert found.p == pytest.approx(expected)
    assert found.test == "McNemar"
    assert found.difference == pytest.approx((better - worse) / (37 + better + worse))
    assert found.score_one - found.score_two == pytest.approx(found.difference)
    if 0 < better + worse <= 16:
        assert _share_as_far(np.array([1.0] * better + [-1.0] * worse)) == pytest.approx(
            expected, rel=1e-9 if better + worse <= 14 else 0.1
        )


def test_tangos_interval_holds_as_often_as_it_says() -> None:
    # All tables of 30 examples, weighted by their probability.
    n, shares = 30, [(0.1, 0.1), (0.3, 0.1), (0.05, 0.2), (0.15, 0.02)]
    known: dict[tuple[int, int], tuple[float, float]] = {}
    for first, second in shares:
        held = 0.0
        for better, worse in itertools.product(range(n + 1), repeat=2):
            if better + worse > n:
                continue
            weight = stats.multinomial.pmf(
                [better, worse, n - better - worse], n, [first, second, 1 - first - second]
            )
            if weight < 1e-7:
                continue
            if (better, worse) not in known:
                known[better, worse] = _tango(better, worse, n)
            lower, upper = known[better, worse]
            held += weight * (lower <= first - second <= upper)
        assert 0.93 < held < 0.99, (first, second)


def test_tangos_interval_without_any_difference_is_known_in_closed_form() -> None:
    z = 1.959964
    assert _tango(0, 0, 50) == pytest.approx((-(z**2) / (50 + z**2), z**2 / (50 + z**2)))
    lower, upper = _tango(7, 3, 50)
    assert _tango(3, 7, 50) == pytest.approx((-upper, -lower))
    assert lower < 0.08 < upper
    assert _tango(9, 0, 9)[1] == 1.0


def test_graded_scores_are_compared_by_flipping_signs() -> None:
    rng = np.random.default_rng(0)
    for size in (6, 12, 60):
        one, two = rng.random((2, size)) + np.array([[0.15], [0.0]])
        found = paired_difference(one.tolist(), two.tolist())
        expected = stats.permutation_test(
            (one - two,), np.mean, permutation_type="samples", n_resamples=50_000, rng=1
        )
        assert found.p == pytest.approx(expected.pvalue, abs=1e-9 if size <= 12 else 0.01)
        student = stats.ttest_rel(one, two).confidence_interval(0.95)
        assert (found.lower, found.upper) == pytest.approx((student.low, student.high))
        assert found.test == "sign flips"


def test_examples_of_a_cluster_change_sign_together() -> None:
    # Copies say nothing new: neither p nor the interval may change.
    rng = np.random.default_rng(2)
    one, two = rng.random((2, 12)).round(2)
    alone = paired_difference(one.tolist(), two.tolist())
    names = [str(i) for i in range(12) for _ in range(5)]
    copies = paired_difference(np.repeat(one, 5).tolist(), np.repeat(two, 5).tolist(), names)
    assert copies.p == pytest.approx(alone.p)
    assert (copies.lower, copies.upper) == pytest.approx((alone.lower, alone.upper))
    assert (copies.num_examples, copies.num_clusters, alone.num_clusters) == (60, 12, None)
    right, wrong = pairs(0, 40, 10, 10)
    apart = paired_difference(right, wrong)
    joined = paired_difference(right, wrong, [str(i // 10) for i in range(60)])
    assert apart.p < 0.001 < 0.05 < joined.p


def test_what_cannot_be_paired_is_refused_and_no_spread_has_no_interval() -> None:
    for one, two in (([], []), ([1.0], [1.0, 0.0]), ([float("nan")], [0.0])):
        with pytest.raises(ValueError, match=r"paired|finite"):
            paired_difference(one, two)
    same = paired_difference([0.5, 0.25], [0.5, 0.25])
    assert (same.lower, same.upper, same.p) == (None, None, 1.0)
    assert paired_difference([0.5], [0.25]).lower is None


def test_equal_programs_are_rarely_told_apart() -> None:
    rng, wrong = np.random.default_rng(5), {"McNemar": 0, "sign flips": 0}
    for _ in range(300):
        shared = rng.random(40)
        for own in (rng.integers(0, 2, (2, 40)).astype(float), rng.random((2, 40)) + shared):
            found = paired_difference(own[0].tolist(), own[1].tolist())
            wrong[found.test] += found.p <= 0.05
    assert 0 < wrong["McNemar"] <= wrong["sign flips"] <= 27
