import numpy as np
import pytest
from scipy.stats import t

from kilobit.evaluators.statistics.intervals import in_clusters, mean_interval
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


def test_a_cluster_of_equal_answers_counts_once() -> None:
    # The variance of ten equal clusters is that of nine examples (10 - 1 for the mean), and the
    # quantile is Student's with nine degrees of freedom; Wilson's bounds solve this equation.
    scores, names = [1.0] * 30 + [0.0] * 20, [str(i // 5) for i in range(50)]
    alone = mean_interval([1.0] * 6 + [0.0] * 4)
    found = mean_interval(scores, names)
    assert found.score == 0.6
    assert None not in (found.lower, found.upper, alone.lower, alone.upper)
    for bound in (found.lower, found.upper):
        assert abs(0.6 - bound) == pytest.approx(t.ppf(0.975, 9) * (bound * (1 - bound) / 9) ** 0.5)
    assert found.lower < alone.lower < alone.upper < found.upper
    # Nothing varies, so the examples of a cluster may be copies.
    perfect = mean_interval([1.0] * 50, names)
    assert perfect.lower < mean_interval([1.0] * 10).lower < mean_interval([1.0] * 50).lower
    assert mean_interval([1.0, 0.0], ["a", "a"]) == Interval(0.5, None, None)


def test_independent_examples_in_clusters_have_almost_the_plain_interval() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2, 2000).astype(float).tolist()
    plain, found = mean_interval(scores), mean_interval(scores, [str(i // 4) for i in range(2000)])
    assert (found.lower, found.upper) == pytest.approx((plain.lower, plain.upper), abs=0.003)


def test_sums_of_clusters_do_not_depend_on_the_order_of_examples() -> None:
    rng = np.random.default_rng(0)
    rows, names = rng.integers(0, 9, (2, 40, 3)), [str(i % 7) for i in range(40)]
    shuffled = rng.permutation(40)
    found = in_clusters(rows, names)
    assert found.shape == (2, 7, 3)
    assert (found == in_clusters(rows[:, shuffled], [names[i] for i in shuffled])).all()
    assert (found.sum(axis=1) == rows.sum(axis=1)).all()
    assert in_clusters(rows, None) is rows
