"""Bounds of a procedure against known intervals, brute force and simulation."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from kilobit.evaluators.statistics.procedure import (
    FEWEST_RUNS,
    HeldOut,
    procedure_bounds,
    quantile,
)


def held_out(scores: NDArray[np.float64], first: int = 0) -> HeldOut:
    """Return scores, shape [examples, targets], of examples that are numbered from `first` on."""
    return HeldOut([str(first + i) for i in range(len(scores))], scores)


def test_runs_on_data_of_their_own_have_students_interval() -> None:
    rng = np.random.default_rng(0)
    tables = [rng.random((400, 1)) * 0.5 + rng.normal(0.25, 0.03) for _ in range(6)]
    (found,) = procedure_bounds([held_out(x, 400 * i) for i, x in enumerate(tables)])
    means = [table.mean() for table in tables]
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert found.score == pytest.approx(np.mean(means))
    # One example more or less is all that is added.
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=2e-4)


def test_noise_that_runs_share_is_in_the_bounds() -> None:
    # The same outputs in each run: only the examples vary, and more runs do not help.
    rng = np.random.default_rng(1)
    right = (rng.random((300, 1)) < 0.7).astype(float)
    for count in (3, 12):
        (found,) = procedure_bounds([held_out(right)] * count)
        half = 1.96 * right.std() / 300**0.5
        assert (found.lower, found.upper) == pytest.approx(
            (right.mean() - half, right.mean() + half), abs=0.003
        )
    # The same in clusters of ten equal examples.
    units = [str(i // 10) for i in range(300)]
    joined = np.repeat(right[:30], 10, axis=0)
    (wide,) = procedure_bounds([HeldOut(units, joined)] * 3)
    (narrow,) = procedure_bounds([held_out(joined)] * 3)
    assert wide.upper - wide.score > 2.5 * (narrow.upper - narrow.score)


def test_shared_noise_is_the_mean_covariance_of_pairs_of_runs() -> None:
    rng = np.random.default_rng(2)
    hard, places = rng.random(120), [rng.permutation(120)[:60] for _ in range(4)]
    runs = [
        HeldOut([str(i) for i in each], (rng.random(60) < hard[each]).astype(float)[:, None])
        for each in places
    ]
    means = [run.scores.mean() for run in runs]
    shared = 0.0
    for r, s in ((r, s) for r in range(4) for s in range(4) if r != s):
        ours = dict(zip(runs[r].units, runs[r].scores[:, 0] - means[r], strict=True))
        theirs = dict(zip(runs[s].units, runs[s].scores[:, 0] - means[s], strict=True))
        shared += sum(ours[u] * theirs[u] for u in ours.keys() & theirs.keys()) / 60**2 / 12
    (found,) = procedure_bounds(runs)
    units = len({unit for run in runs for unit in run.units})
    few, many = stats.t.ppf(0.975, 3), stats.t.ppf(0.975, units - 1)
    half = (few**2 * np.var(means, ddof=1) / 4 + many**2 * (max(0.0, shared) + 1 / units**2)) ** 0.5
    assert shared > 0
    assert found.upper - found.score == pytest.approx(half)


def test_more_targets_share_the_level() -> None:
    rng = np.random.default_rng(3)
    table = [rng.random((50, 2)) for _ in range(5)]
    both = procedure_bounds([held_out(x, 50 * i) for i, x in enumerate(table)])
    for target in range(2):
        alone = [held_out(x[:, [target]], 50 * i) for i, x in enumerate(table)]
        (found,) = procedure_bounds(alone)
        assert both[target].lower < found.lower < found.score < found.upper < both[target].upper
        (same,) = procedure_bounds(alone, 0.975)
        assert same.lower == pytest.approx(both[target].lower)
    assert quantile(5, 2) == pytest.approx(stats.t.ppf(1 - 0.05 / 4, 4))


def test_too_few_runs_are_refused_and_perfect_ones_are_not_certain() -> None:
    perfect = held_out(np.ones((100, 1)))
    with pytest.raises(ValueError, match="2 runs: a bound for a procedure needs 3 or more"):
        procedure_bounds([perfect] * (FEWEST_RUNS - 1))
    with pytest.raises(ValueError, match="at least one example"):
        procedure_bounds([perfect, perfect, held_out(np.ones((0, 1)))])
    (found,) = procedure_bounds([perfect] * 3)
    assert found.upper == 1.0
    assert found.lower == pytest.approx(1 - 1.98 / 100, abs=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_bounds_hold_where_the_runs_alone_do_not(shared: bool) -> None:
    rng, held, alone, count, n = np.random.default_rng(4), 0, 0, 8, 100
    draws = rng.normal(0.7, (0.02**2 + 0.25**2) ** 0.5, 200_000)
    truth, student = float(np.clip(draws, 0, 1).mean()), float(stats.t.ppf(0.975, count - 1))
    for _ in range(300):
        # Programs of mean quality 0.7; examples that are hard for all of them.
        quality = rng.normal(0.7, 0.02, count)
        hard = rng.normal(0, 0.25, (1 if shared else count, n))
        tables = (rng.random((count, n)) < quality[:, None] + hard).astype(float)
        runs = [held_out(x[:, None], 0 if shared else n * i) for i, x in enumerate(tables)]
        (found,) = procedure_bounds(runs)
        held += found.lower <= truth <= found.upper
        means = tables.mean(axis=1)
        half = student * means.std(ddof=1) / count**0.5
        alone += abs(means.mean() - truth) <= half
    assert held >= 0.92 * 300
    assert (alone < 0.85 * 300) == shared
