"""Corpus BLEU from sums of integer statistics, for many corpora at once.

A sentence's statistics are n-gram matches and n-gram totals of orders 1 to 4, its length and the
length of its reference. The statistics and the score of their sums equal sacrebleu's with default
settings (four orders, exponential smoothing), divided by 100.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

ORDER = 4
NUM_STATISTICS = 2 * ORDER + 2


@cache
def sacrebleu() -> "BLEU":
    """Return sacrebleu's BLEU, imported on first use."""
    # The import takes half a second, and most commands don't need it.
    from sacrebleu.metrics.bleu import BLEU

    # Effective order concerns sentence scores only; counts and totals are the same without it.
    return BLEU(effective_order=True)


def sentence_statistics(outputs: Sequence[str], targets: Sequence[str]) -> NDArray[np.int64]:
    """Return the statistics of each output, shape [num_examples, NUM_STATISTICS]."""
    rows = []
    for output, target in zip(outputs, targets, strict=True):
        one = sacrebleu().sentence_score(output, [target])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])
    return np.asarray(rows, dtype=np.int64).reshape(len(rows), NUM_STATISTICS)


def corpus_bleu(sums: NDArray[np.number]) -> NDArray[np.float64]:
    """Return BLEU in [0, 1] of summed statistics.

    Args:
        sums: not negative, not necessarily whole, shape [..., NUM_STATISTICS].
    """
    table = np.asarray(sums, dtype=np.float64)
    matches, totals = table[..., :ORDER], table[..., ORDER : 2 * ORDER]
    length, reference = table[..., -2], table[..., -1]
    missing = matches == 0
    # The k-th order without a match counts as 1 / 2^k matches.
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=-1), matches)
    counts = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1) & (length > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.log(smoothed / totals).mean(axis=-1)
        brevity = np.minimum(0.0, 1.0 - reference / length)
        score = np.exp(precision + brevity)
    return np.where(counts, np.minimum(1.0, score), 0.0)
