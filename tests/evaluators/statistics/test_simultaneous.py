"""Bounds against published numbers, brute force and simulation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from kilobit.evaluators.metrics.bleu import corpus_bleu
from kilobit.evaluators.metrics.metrics import METRICS, MeanMetric
from kilobit.evaluators.statistics.intervals import in_clusters
from kilobit.evaluators.statistics.simultaneous import (
    CorpusStatistics,
    binary_bounds,
    bounded_bounds,
    corpus_bounds,
)
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.task import Bounds, make_example


def ones(right: int, of: int) -> list[float]:
    return [1.0] * right + [0.0] * (of - right)


def test_clopper_pearson_equals_the_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: Clopper-Pearson of 81 of 263.
    (found,) = binary_bounds([ones(81, 263)], 1)
    assert (found.lower, found.upper) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    (found,) = binary_bounds([ones(15, 148)], 1)
    assert (found.lower, found.upper) == pytest.approx((0.0578, 0.1617), abs=5e-5)


def test_a_binomial_bound_is_where_the_tail_has_its_share_of_the_risk() -> None:
    for found in binary_bounds([ones(k, 40) for k in (1, 13, 39)], 5, level=0.9):
        right = round(found.score * 40)
        assert binom.sf(right - 1, 40, found.lower) == pytest.approx(0.01, rel=1e-6)
        assert binom.cdf(right, 40, found.upper) == pytest.approx(0.01, rel=1e-6)


def test_nothing_and_everything_right_have_a_bound_on_one_side() -> None:
    nothing, everything = binary_bounds([ones(0, 100), ones(100, 100)], 2)
    share = (0.05 / 4) ** (1 / 100)
    assert (nothing.lower, nothing.upper) == pytest.approx((0.0, 1 - share))
    assert (everything.lower, everything.upper) == pytest.approx((share, 1.0))


def test_more_programs_have_wider_bounds() -> None:
    for bounds in (binary_bounds, bounded_bounds):
        scores = np.random.default_rng(0).permutation(ones(60, 100))
        (alone,), (one_of_many,) = (bounds([scores], m) for m in (1, 50))
        assert one_of_many.lower < alone.lower < 0.6 < alone.upper < one_of_many.upper


def by_hand(scores: list[float], tail: float) -> float:
    """Bet in plain loops over a grid of means, and return the last one that is excluded."""
    excluded = 0.0
    for m in np.arange(1, 1000) / 1000:
        capital, seen, squares = 1.0, 0.5, 0.25
        variance = 0.25
        for t, x in enumerate(scores, 1):
            bet = min(np.sqrt(2 * np.log(1 / tail) / (len(scores) * variance)), 0.5 / m)
            capital *= 1 + bet * (x - m)
            if capital >= 1 / tail:
                excluded = m
                break
            seen += x
            squares += (x - seen / (t + 1)) ** 2
            variance = squares / (t + 1)
    return float(excluded)


def test_betting_equals_the_game_played_by_hand() -> None:
    rng = np.random.default_rng(0)
    table = [rng.beta(6, 2, size=150).tolist(), rng.beta(0.2, 0.4, size=150).tolist()]
    for scores, found in zip(table, bounded_bounds(table, 4), strict=True):
        assert found.score == pytest.approx(np.mean(scores))
        lower, upper = by_hand(scores, 0.05 / 8), 1 - by_hand([1 - x for x in scores], 0.05 / 8)
        assert lower <= found.lower <= lower + 0.001
        assert upper - 0.001 <= found.upper <= upper
        assert found.lower < found.score < found.upper


def test_betting_profits_from_a_small_variance() -> None:
    rng = np.random.default_rng(0)
    (narrow,) = bounded_bounds([rng.uniform(0.75, 0.85, size=500)], 1)
    (wide,) = binary_bounds([ones(400, 500)], 1)
    assert narrow.lower > 0.78
    assert narrow.upper - narrow.lower < (wide.upper - wide.lower) / 2


def statistics(good: int, examples: int, programs: int = 1) -> CorpusStatistics:
    """Return sentences of 10 tokens, the first `good` of them perfect, the others half right."""
    best = np.array([[10, 9, 8, 7, 10, 9, 8, 7, 10, 10]] * examples)
    rows = best.copy()
    rows[good:, :4] = [5, 3, 2, 1]
    worst = rows.copy()
    worst[:, :4] = 0
    return CorpusStatistics(
        np.stack([rows] * programs), np.stack([worst] * programs), best, corpus_bleu
    )


def test_bounds_of_a_corpus_hold_the_score_and_shrink_with_examples() -> None:
    (few,), (many,) = (corpus_bounds(statistics(n // 2, n), 1) for n in (60, 600))
    for found in (few, many):
        assert 0.3 < found.lower < found.score < found.upper < 0.95
    assert many.upper - many.lower < (few.upper - few.lower) / 2
    # A bootstrap for one program at level 0.975 by the plain percentile, as a yardstick.
    rng = np.random.default_rng(1)
    rows = statistics(300, 600).rows[0]
    draws = corpus_bleu(rng.multinomial(600, np.full(600, 1 / 600), size=4000) @ rows)
    lower, upper = np.quantile(draws, [0.0125, 0.9875])
    assert (many.lower, many.upper) == pytest.approx((lower, upper), abs=0.006)


def test_the_same_program_many_times_costs_nothing_in_the_bootstrap() -> None:
    (alone,) = corpus_bounds(statistics(100, 200), 1)
    together = corpus_bounds(statistics(100, 200, programs=5), 5)
    assert {round(found.lower, 2) for found in together} == {round(alone.lower, 2)}
    # Four more that failed have their share of the risk.
    (one_of_five,) = corpus_bounds(statistics(100, 200), 5)
    assert one_of_five.lower < alone.lower - 0.005


def test_a_perfect_corpus_is_not_certain_and_one_without_matches_is_not_certified() -> None:
    (perfect,) = corpus_bounds(statistics(50, 50), 1)
    assert perfect.score == perfect.upper == 1.0
    # What has a share of 7 % is unseen in 50 examples with probability 0.025 / 2 and more.
    assert perfect.lower == pytest.approx(0.0125 ** (1 / 50), abs=0.02)
    rare = statistics(50, 50)
    rare.rows[:, 9:, 3] = 0
    assert corpus_bounds(rare, 1)[0].lower == 0.0
    nothing = statistics(50, 50)
    nothing.rows[..., :4] = 0
    (found,) = corpus_bounds(nothing, 1)
    assert (found.score, found.lower) == (0.0, 0.0)
    assert 0.005 < found.upper < 0.3
    # Without 4-grams in any sentence nothing can be said, and nothing is.
    short = statistics(50, 50)
    for table in (short.rows[0], short.worst[0], short.best):
        table[:, [3, 7]] = 0
    with np.errstate(all="raise"):
        (found,) = corpus_bounds(short, 1)
    assert (found.score, found.lower, found.upper) == (0.0, 0.0, 0.0)
    (single,) = corpus_bounds(statistics(1, 1), 1)
    assert (single.lower, single.upper) == (0.0, 1.0)


def test_the_same_statistics_have_the_same_bounds() -> None:
    assert corpus_bounds(statistics(30, 60), 2) == corpus_bounds(statistics(30, 60), 2)


@pytest.mark.parametrize("bounds", [binary_bounds, bounded_bounds])
@pytest.mark.parametrize(
    ("scores", "num_programs", "level", "message"),
    [
        ([], 1, 0.95, "a table of programs and examples is needed"),
        ([0.0, 1.0], 2, 0.95, "a table of programs and examples is needed"),
        ([[]], 1, 0.95, "at least one example"),
        ([[float("nan")]], 1, 0.95, "score nan is outside"),
        ([[0.0, float("inf")]], 1, 0.95, "score inf is outside"),
        ([[0.0, -0.1]], 1, 0.95, r"score -0\.1 is outside"),
        ([[1.0], [1.5]], 2, 0.95, r"score 1\.5 is outside"),
        ([[1.0], [1.0]], 1, 0.95, "2 programs have scores, but 1 were chosen"),
        ([[1.0]], 1, 1.0, r"level 1\.0 is not between"),
        ([[1.0]], 1, float("nan"), "level nan is not between"),
    ],
)
def test_what_can_not_be_bounded_is_refused(
    bounds: Callable[..., list[Bounds]], scores: Any, num_programs: int, level: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bounds(scores, num_programs, level)


def test_scores_between_0_and_1_are_no_0_1_scores() -> None:
    with pytest.raises(ValueError, match=r"score 0\.5 is neither 0 nor 1"):
        binary_bounds([[0.0, 0.5]], 1)


def test_statistics_that_are_no_counts_are_refused() -> None:
    bad = statistics(3, 5)
    bad.rows[0, 0, 0] = -1
    with pytest.raises(ValueError, match="not negative"):
        corpus_bounds(bad, 1)
    empty = CorpusStatistics(bad.rows[:, :0], bad.worst[:, :0], bad.best[:0], corpus_bleu)
    with pytest.raises(ValueError, match="at least one"):
        corpus_bounds(empty, 1)
    none = CorpusStatistics(bad.rows[:0], bad.worst[:0], bad.best, corpus_bleu)
    with pytest.raises(ValueError, match="a table"):
        corpus_bounds(none, 1)


def test_a_metric_knows_which_bounds_are_its_own() -> None:
    task = load_miniature("numbers", 0)
    examples = task.splits.sealed[:100]
    right = [e.target if i < 70 else "no" for i, e in enumerate(examples)]
    found = METRICS["exact_match"].bounds([right], examples, 3)
    assert found == binary_bounds([ones(70, 100)], 3)

    class Half(MeanMetric):
        def per_example(self, output: str, example: Any) -> float:
            return 0.5 if output == "no" else 1.0

    scores = [1.0 if i < 70 else 0.5 for i in range(100)]
    assert Half().bounds([right], examples, 3) == bounded_bounds([scores], 3)
    task = load_miniature("translation", 0)
    examples = task.splits.sealed[:100]
    outputs = [[e.target for e in examples], [e.target.split()[0] for e in examples]]
    perfect, poor = METRICS["bleu"].bounds(outputs, examples, 2)
    assert perfect.score == 1.0 > perfect.lower > 0.9
    assert poor.score == METRICS["bleu"].corpus(outputs[1], examples).score < 0.2


def test_bets_on_clusters_of_one_size_are_bets_on_their_means() -> None:
    rng = np.random.default_rng(3)
    table, names = rng.random((2, 120)), [f"{i // 4}" for i in range(120)]
    means = in_clusters(table[..., None], names)[..., 0] / 4
    for found, expected in zip(
        bounded_bounds(table, 3, clusters=names), bounded_bounds(means, 3), strict=True
    ):
        assert (found.lower, found.upper) == pytest.approx((expected.lower, expected.upper))
        assert found.score == pytest.approx(expected.score)


def test_clusters_of_any_size_keep_the_true_score_of_examples() -> None:
    # Large clusters are harder, so the mean of cluster means is another number.
    rng, held, plain = np.random.default_rng(0), 0, 0
    for _ in range(150):
        sizes = rng.choice([1, 8], size=60)
        chance = np.where(sizes == 1, 0.9, 0.4)
        truth = (0.9 * 1 + 0.4 * 8) / 9
        right = np.repeat((rng.random(60) < chance).astype(float), sizes)
        names = [str(i) for i, size in enumerate(sizes) for _ in range(size)]
        (found,), (alone,) = bounded_bounds([right], 1, clusters=names), binary_bounds([right], 1)
        held += found.lower <= truth <= found.upper
        plain += alone.lower <= truth <= alone.upper
        assert found.score == right.mean()
    assert held >= 0.95 * 150
    assert plain < 0.8 * 150


@pytest.mark.parametrize("metric", ["exact_match", "bleu"])
def test_metrics_take_examples_of_a_cluster_together(metric: str) -> None:
    texts = [f"the quick brown fox number {i} runs" for i in range(80)]
    outputs = [text if i // 8 % 2 else "the quick brown cow" for i, text in enumerate(texts)]
    plain = [make_example(text, text) for text in texts]
    joined = [make_example(text, text, {"cluster": str(i // 8)}) for i, text in enumerate(texts)]
    apart = [make_example(text, text, {"cluster": text}) for text in texts]
    rule = METRICS[metric]
    assert rule.corpus(outputs, apart) == rule.corpus(outputs, plain)
    assert rule.bounds([outputs], apart, 1) == rule.bounds([outputs], plain, 1)
    for wide, narrow in (
        (rule.corpus(outputs, joined), rule.corpus(outputs, plain)),
        (rule.bounds([outputs], joined, 1)[0], rule.bounds([outputs], plain, 1)[0]),
    ):
        assert wide.score == narrow.score
        assert wide.lower < narrow.lower < narrow.score < narrow.upper < wide.upper
