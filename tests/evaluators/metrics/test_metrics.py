import random

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from kilobit.evaluators.metrics.metrics import METRICS
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.task import make_example


def test_exact_match_ignores_white_space_and_nothing_else() -> None:
    example = make_example("1 + 1", "2")
    scores = [
        METRICS["exact_match"].per_example(text, example) for text in (" 2\n", "2.", "", "22")
    ]
    assert scores == [1.0, 0.0, 0.0, 0.0]


def test_contains_ignores_case() -> None:
    example = make_example("x", "Yes")
    assert METRICS["contains"].per_example("oh yes.", example) == 1.0
    assert METRICS["contains"].per_example("no", example) == 0.0


def test_corpus_bleu_equals_sacrebleu_in_any_order() -> None:
    examples = list(load_miniature("translation", 0).splits.search[:60])
    rng = random.Random(0)
    # Some lack their last word, so that the brevity penalty takes part; some are shuffled.
    words = [e.target.split() for e in examples]
    outputs = [" ".join(w[:-1] if i % 2 else rng.sample(w, len(w))) for i, w in enumerate(words)]
    expected = BLEU().corpus_score(outputs, [[e.target for e in examples]]).score / 100
    assert 0.05 < expected < 0.95
    assert METRICS["bleu"].corpus(outputs, examples).score == pytest.approx(expected, abs=1e-12)
    order = rng.sample(range(60), 60)
    shuffled = METRICS["bleu"].corpus([outputs[i] for i in order], [examples[i] for i in order])
    assert shuffled.score == pytest.approx(expected, abs=1e-12)


def test_bounds_of_bleu_are_around_corpus_bleu_also_where_no_long_n_gram_matches() -> None:
    examples = list(load_miniature("translation", 0).splits.search[:50])
    rng = random.Random(1)
    poor = [f"{rng.choice(e.target.split())} x y z" for e in examples]
    fair = [e.target if i % 2 else "die Katze" for i, e in enumerate(examples)]
    bounds = METRICS["bleu"].bounds([poor, fair], examples, 2)
    for found, outputs in zip(bounds, (poor, fair), strict=True):
        expected = METRICS["bleu"].corpus(outputs, examples).score
        assert 0 < expected < 0.9
        assert found.score == pytest.approx(expected, rel=1e-12)
        assert found.lower <= expected <= found.upper


def test_bleu_interval_holds_the_score_and_shrinks_with_examples() -> None:
    examples = list(load_miniature("translation", 0).splits.search[:400])
    outputs = [e.target if i % 2 else "die Katze" for i, e in enumerate(examples)]
    few = METRICS["bleu"].corpus(outputs[:40], examples[:40])
    many = METRICS["bleu"].corpus(outputs, examples)
    for interval in (few, many):
        assert interval.lower is not None
        assert interval.upper is not None
        assert interval.lower < interval.score < interval.upper
    assert many.upper - many.lower < (few.upper - few.lower) / 2


def test_contributions_have_corpus_bleu_as_mean_and_its_spread() -> None:
    rule, task = METRICS["bleu"], load_miniature("translation", 0)
    examples = task.splits.search[:200]
    rng = np.random.default_rng(0)
    outputs = [
        e.target if rng.random() < 0.5 else " ".join(e.target.split()[:-1]) for e in examples
    ]
    found = np.array(rule.contributions(outputs, examples))
    whole = rule.corpus(outputs, examples)
    assert found.mean() == pytest.approx(whole.score)
    # The bootstrap of the whole corpus has the same standard error.
    assert whole.lower is not None
    assert whole.upper is not None
    assert found.std() / 200**0.5 == pytest.approx((whole.upper - whole.lower) / 3.92, rel=0.15)
    assert METRICS["exact_match"].contributions(outputs, examples) == METRICS["exact_match"].scores(
        outputs, examples
    )
