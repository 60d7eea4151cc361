import numpy as np
import pytest

from kilobit.evaluators.metrics.bleu import (
    NUM_STATISTICS,
    corpus_bleu,
    sacrebleu,
    sentence_statistics,
)


def by_sacrebleu(sums: list[int]) -> float:
    bleu = sacrebleu()
    result = bleu.compute_bleu(
        correct=sums[:4],
        total=sums[4:8],
        sys_len=sums[8],
        ref_len=sums[9],
        smooth_method=bleu.smooth_method,
    )
    return float(result.score) / 100


def test_bleu_of_many_sums_at_once_equals_sacrebleu() -> None:
    rng = np.random.default_rng(0)
    totals = np.sort(rng.integers(0, 40, size=(3000, 4)), axis=1)[:, ::-1]
    # A third of the counts is 0, so that smoothing and missing orders take part.
    matches = rng.integers(0, totals + 1) * (rng.random((3000, 4)) > 0.33)
    lengths = np.stack([totals[:, 0], rng.integers(1, 60, size=3000)], axis=1)
    sums = np.concatenate([matches, totals, lengths], axis=1)
    expected = [min(1.0, by_sacrebleu(row)) for row in sums.tolist()]
    assert len({score == 0 for score in expected}) == 2
    assert corpus_bleu(sums) == pytest.approx(expected, abs=1e-12)
    assert corpus_bleu(sums[0]).shape == ()


def test_scaled_statistics_have_the_same_score() -> None:
    sums = np.array([9, 7, 5, 3, 10, 9, 8, 7, 10, 11])
    assert corpus_bleu(sums / 7) == pytest.approx(corpus_bleu(sums), abs=1e-12)


def test_statistics_of_a_perfect_and_an_empty_output() -> None:
    rows = sentence_statistics(["a b c d e", ""], ["a b c d e", "a b"])
    assert rows.tolist() == [[5, 4, 3, 2, 5, 4, 3, 2, 5, 5], [0] * 9 + [2]]
    assert sentence_statistics([], []).shape == (0, NUM_STATISTICS)
