"""Models of ties against published numbers, against a numerical fit, and against a simulation."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import ndtr

from kilobit.evaluators.statistics.ties import MODELS, strengths, thurstone


@pytest.mark.parametrize(
    ("wins", "losses", "percent"),
    [(0.53, 0.26, 64), (0.44, 0.35, 54), (0.33, 0.42, 45), (0.24, 0.54, 34), (0.18, 0.57, 29)],
)
def test_the_band_of_thurstone_gives_the_published_percentages(
    wins: float, losses: float, percent: int
) -> None:
    strength, _ = thurstone(np.array([wins, 1 - wins - losses, losses]))
    assert math.trunc(100 * float(strength)) == percent


def chances(model: str, d: float, tie: float) -> tuple[float, float, float]:
    """Return the chances of win, tie and loss as the papers write them, d the log of p / q."""
    if model == "thurstone":
        won, lost = float(ndtr(d - tie)), float(ndtr(-d - tie))
        return won, 1 - won - lost, lost
    p, q = math.exp(d), 1.0
    if model == "rao_kupper":
        tied = p * q * (tie**2 - 1) / ((p + tie * q) * (tie * p + q))
        return p / (p + tie * q), tied, q / (tie * p + q)
    total = p + q + tie * math.sqrt(p * q)
    return p / total, tie * math.sqrt(p * q) / total, q / total


@pytest.mark.parametrize("model", ["thurstone", "rao_kupper", "davidson"])
@pytest.mark.parametrize("counts", [(120, 60, 20), (30, 100, 70), (99, 1, 100)])
def test_each_model_is_its_maximum_likelihood(model: str, counts: tuple[int, int, int]) -> None:
    least = {"thurstone": 0.0, "rao_kupper": 1.0, "davidson": 0.0}[model]

    def loss(x: np.ndarray) -> float:
        shares = chances(model, float(x[0]), least + math.exp(float(x[1])))
        return -sum(n * math.log(max(p, 1e-300)) for n, p in zip(counts, shares, strict=True))

    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    found = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options=options).x
    expected = float(ndtr(found[0])) if model == "thurstone" else 1 / (1 + math.exp(-found[0]))
    strength, tie = MODELS[model](np.array(counts))
    assert float(strength) == pytest.approx(expected, abs=1e-6)
    assert float(tie) == pytest.approx(least + math.exp(found[1]), abs=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_swap_of_the_programs_swaps_the_strength(model: str) -> None:
    one, _ = MODELS[model](np.array([70, 50, 30]))
    other, _ = MODELS[model](np.array([30, 50, 70]))
    assert float(one) == pytest.approx(1 - float(other))
    assert float(one) > 0.5


def test_without_ties_all_models_are_the_share_of_wins() -> None:
    for found in strengths(30, 0, 70):
        assert found.strength == pytest.approx(0.3)
        assert found.lower is not None
        assert found.upper is not None
        assert found.lower < 0.3 < found.upper
    ties = {found.model: found.tie for found in strengths(30, 0, 70)}
    assert ties["thurstone"] == pytest.approx(0, abs=1e-12)
    assert ties["rao_kupper"] == pytest.approx(1)
    assert ties["davidson"] == 0


def test_where_nothing_was_decided_only_half_points_say_something() -> None:
    found = {s.model: s for s in strengths(0, 12, 0)}
    assert found.pop("half_points").strength == 0.5
    assert {s.strength for s in found.values()} == {None}
    assert {s.lower for s in found.values()} == {None}


def test_a_side_that_never_lost_has_no_interval_from_resamples_that_do_not_vary() -> None:
    found = {s.model: s for s in strengths(10, 20, 0)}
    assert found["drop_ties"].strength == 1
    assert found["drop_ties"].upper is None
    assert found["thurstone"].tie is None
    half = found["half_points"]
    assert half.lower is not None
    assert half.lower < 2 / 3


def test_a_resample_without_a_decision_counts_against_both_bounds() -> None:
    # Nothing is decided in one resample of e: the interval must say that all is possible.
    for found in strengths(1, 99, 0)[1:]:
        assert found.strength == 1
        assert (found.lower, found.upper) == (0, 1)
    for found in strengths(0, 99, 1)[1:]:
        assert found.strength == 0
        assert (found.lower, found.upper) == (0, 1)


def test_intervals_are_the_same_every_time_and_change_with_the_seed() -> None:
    assert strengths(100, 80, 120) == strengths(100, 80, 120)
    assert strengths(100, 80, 120)[2] != strengths(100, 80, 120, seed=1)[2]


def test_no_verdicts_are_an_error() -> None:
    with pytest.raises(ValueError, match="no verdicts"):
        strengths(0, 0, 0)


def test_intervals_of_300_prompts_hold_the_truth_in_about_95_of_100_experiments() -> None:
    d, band, num_experiments = 0.3, 0.4, 100
    rng = np.random.default_rng(0)
    seen = rng.normal(d, 1, size=(num_experiments, 300))
    held = 0
    for experiment in seen:
        wins, losses = int((experiment > band).sum()), int((experiment < -band).sum())
        found = strengths(wins, 300 - wins - losses, losses)[2]
        assert found.lower is not None
        assert found.upper is not None
        held += found.lower <= float(ndtr(d)) <= found.upper
    # Four standard deviations of a binomial below 0.95.
    assert held >= 0.95 * num_experiments - 4 * math.sqrt(num_experiments * 0.95 * 0.05)
    assert held < num_experiments
