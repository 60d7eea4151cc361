"""Bounds for the true scores of several programs that hold for all of them at once.

The programs have to be chosen without the examples that are given here. Then, with probability
`level` over the draw of the examples, the true score of every program lies between its bounds; the
true score is the limit of the score over more and more examples of the same kind.

- 0/1 scores: exact binomial bounds (Clopper and Pearson 1934), with Bonferroni's correction.
- Scores in [0, 1]: hedged capital, a betting confidence sequence (Waudby-Smith and Ramdas 2024,
  arXiv 2010.09686), with Bonferroni's correction. It holds for any distribution.
- The same in clusters, such as questions on one passage: the bets are on whole clusters, which are
  independent, in proportion to their size. The true score stays that of examples. No cluster of the
  population may be larger than the largest one here.
- Scores of a corpus, such as BLEU: a studentised bootstrap over examples that are the same for all
  programs, with the largest deviation over programs. This one holds in the limit of many examples;
  `benchmarks/certification.py` measures how well it does with few. Clusters take the place of
  examples.

None of the bounds holds for programs that were chosen or changed with knowledge of these scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kilobit.evaluators.statistics.intervals import in_clusters
from kilobit.search.task import LEVEL, Bounds

NUM_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 250
# A bet may lose at most half of the capital, as the paper recommends.
_MAX_LOSS = 0.5
_NUM_HALVINGS = 50
_RELATIVE_STEP = 1e-4
_MIN_EXAMPLES = 10

Table = NDArray[np.float64]


@dataclass(frozen=True)
class CorpusStatistics:
    """Statistics of the examples of a corpus; its score depends on their sums only.

    Attributes:
        rows: statistics of the outputs of each program, shape [num_programs, num_examples, k].
        worst: statistics of the least useful outputs, same shape as `rows`.
        best: statistics of perfect outputs, shape [num_examples, k].
        score: maps sums or means, shape [..., k], to scores in [0, 1], shape [...].
    """

    rows: NDArray[np.int64]
    worst: NDArray[np.int64]
    best: NDArray[np.int64]
    score: Callable[[Table], Table]


def binary_bounds(scores: ArrayLike, num_programs: int, level: float = LEVEL) -> list[Bounds]:
    """Return exact bounds for 0/1 scores.

    Args:
        scores: of the same examples for each program, shape [programs, examples].
        num_programs: how many were chosen together, at least as many as there are here.
        level: probability that all bounds hold.

    Raises:
        ValueError: if there are no scores, a score is neither 0 nor 1, or `num_programs` or
            `level` is impossible.
    """
    from scipy.special import betainccinv, betaincinv

    table = _checked(scores, num_programs, level)
    if not np.isin(table, (0.0, 1.0)).all():
        raise ValueError(f"score {table[~np.isin(table, (0.0, 1.0))][0]} is neither 0 nor 1")
    n = table.shape[1]
    right = table.sum(axis=1)
    tail = (1 - level) / (2 * num_programs)
    # If no or every example is right, one bound is 0 or 1, and the beta distribution undefined.
    lower = np.where(right > 0, betaincinv(np.maximum(right, 1), n - right + 1, tail), 0.0)
    upper = np.where(right < n, betainccinv(right + 1, np.maximum(n - right, 1), tail), 1.0)
    return _bounds(right / n, lower, upper)


def bounded_bounds(
    scores: ArrayLike,
    num_programs: int,
    level: float = LEVEL,
    clusters: Sequence[str] | None = None,
) -> list[Bounds]:
    """Return bounds for scores in [0, 1] of any distribution.

    The examples are bet on in their order, which must not depend on the scores.

    Args:
        scores: of the same examples for each program, shape [programs, examples].
        num_programs: how many were chosen together, at least as many as there are here.
        level: probability that all bounds hold.
        clusters: the name of each example's cluster, if some share one.

    Raises:
        ValueError: if there are no scores, a score is outside [0, 1], or `num_programs` or `level`
            is impossible.
    """
    table = _checked(scores, num_programs, level)
    mean = table.mean(axis=1)
    sizes = in_clusters(np.ones((table.shape[1], 1)), clusters)[:, 0]
    table = in_clusters(table[..., None], clusters)[..., 0] / sizes
    weights = sizes / sizes.max()
    tail = (1 - level) / (2 * num_programs)
    lower = _lower_by_betting(table, weights, tail)
    upper = 1 - _lower_by_betting(1 - table, weights, tail)
    return _bounds(mean, lower, upper)


def _lower_by_betting(table: Table, weights: Table, tail: float) -> Table:
    """Return a lower confidence bound of each row's mean, violated with probability at most `tail`.

    A bet that the mean is above m multiplies the capital by 1 + bet w (x - m), w <= 1. If m is the
    mean, this is a fair game, in which the capital ever reaches 1 / tail with probability at most
    `tail` (Ville's inequality), so every m for which it did is excluded. The capital decreases in
    m.
    """
    n = table.shape[1]
    times = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(weights * table, axis=1)) / (np.cumsum(weights) + 1)
    squares = (weights * (table - means)) ** 2
    variances = (0.25 + np.cumsum(squares, axis=1)) / (times + 1)
    # A bet may depend on the past only.
    past = np.concatenate([np.full((len(table), 1), 0.25), variances[:, :-1]], axis=1)
    bets = np.sqrt(2 * np.log(1 / tail) / (n * past))
    excluded, open_ = np.zeros(len(table)), np.ones(len(table))
    for _ in range(_NUM_HALVINGS):
        middle = (excluded + open_) / 2
        m = middle[:, None]
        growth = np.log1p(np.minimum(bets, _MAX_LOSS / m) * weights * (table - m))
        rich = np.cumsum(growth, axis=1).max(axis=1) >= np.log(1 / tail)
        excluded = np.where(rich, middle, excluded)
        open_ = np.where(rich, open_, middle)
    return excluded


def corpus_bounds(
    corpus: CorpusStatistics,
    num_programs: int,
    level: float = LEVEL,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[Bounds]:
    """Return bounds for scores that are not means, by a bootstrap over examples.

    Kinds of examples so rare that the sample may contain none can't be resampled. Half of the error
    probability is reserved for them: the bounds also hold if their share had the worst or the best
    outputs. Where a statistic is above 0 in fewer than 10 examples (hardly any n-gram matches) the
    lower bound is 0.

    Args:
        corpus: the statistics.
        num_programs: how many were chosen together, at least as many as there are here.
        level: probability that all bounds hold.
        num_resamples: number of resamples of the examples.
        seed: seed of the resamples; the same statistics always get the same bounds.

    Raises:
        ValueError: if there are no scores, a statistic is negative, or `num_programs` or `level`
            is impossible.
    """
    rows = np.asarray(corpus.rows, dtype=np.float64)
    _check_counts(rows.shape[0] if rows.ndim == 3 else 0, num_programs, level)
    m, n, _ = rows.shape
    if not n:
        raise ValueError("no examples: a score needs at least one")
    if not (np.isfinite(rows).all() and (rows >= 0).all()):
        raise ValueError("statistics are counts: they must be finite and not negative")
    means = rows.mean(axis=1)
    scores = corpus.score(means)
    # A program that failed has no statistics; its share of the error probability stays unused.
    tail = (1 - level) / 4 * m / num_programs
    unseen = 1 - (tail / m) ** (1 / n)
    lower = corpus.score((1 - unseen) * means + unseen * corpus.worst.mean(axis=1))
    upper = corpus.score((1 - unseen) * means + unseen * corpus.best.mean(axis=0))
    if n > 1:
        above, below, errors = _largest_deviations(corpus, num_resamples, seed)
        lower = np.minimum(lower, scores - _exceeded(above, tail) * errors)
        upper = np.maximum(upper, scores + _exceeded(below, tail) * errors)
    lower = np.where((rows > 0).sum(axis=1).min(axis=1) < _MIN_EXAMPLES, 0.0, lower)
    return _bounds(scores, lower, upper)


def _largest_deviations(
    corpus: CorpusStatistics, num_resamples: int, seed: int
) -> tuple[Table, Table, Table]:
    """Return the largest studentised deviation over programs in each resample, and the errors.

    Returns:
        Upwards and downwards, shape [resamples]; the standard error of each program.
    """
    rng = np.random.default_rng(seed)
    n = corpus.rows.shape[1]
    scores, errors = (x[:, 0] for x in _studentised(corpus, np.ones((1, n))))
    above, below = [], []
    for begun in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, num_resamples - begun)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(float)
        drawn, drawn_errors = _studentised(corpus, weights)
        # A standard error of 0 means a constant score: no sentence is long enough for a 4-gram.
        scale = np.where(drawn_errors > 0, drawn_errors, np.inf)
        deviations = (drawn - scores[:, None]) / scale
        above.append(deviations.max(axis=0))
        below.append(-deviations.min(axis=0))
    return np.concatenate(above), np.concatenate(below), errors


def _studentised(corpus: CorpusStatistics, weights: Table) -> tuple[Table, Table]:
    """Return the scores of weighted examples and their standard errors.

    Errors come from the delta method; the change by one more example of the worst and of the best
    kind is added, so that a resample without any spread has an error too.

    Args:
        corpus: the statistics.
        weights: how often each example was drawn, shape [resamples, examples].

    Returns:
        Both of shape [programs, resamples].
    """
    n, k = corpus.rows.shape[1:]
    best = corpus.best.mean(axis=0)
    all_scores, errors = [], []
    for counts, worst in zip(corpus.rows, corpus.worst.mean(axis=1), strict=True):
        rows = counts.astype(float)
        means = weights @ rows / n
        scores = corpus.score(means)
        # A relative step leaves a statistic that never occurs at 0.
        steps = _RELATIVE_STEP * means[:, None, :] * np.eye(k)
        rises = corpus.score(means[:, None, :] + steps) - corpus.score(means[:, None, :] - steps)
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.where(means > 0, rises / (2 * _RELATIVE_STEP * means), 0.0)
        influence = slopes @ rows.T - (slopes * means).sum(axis=1)[:, None]
        variances = (weights * influence**2).sum(axis=1) / (n * (n - 1))
        for extra in (worst, best):
            variances += (corpus.score((n * means + extra) / (n + 1)) - scores) ** 2
        all_scores.append(scores)
        errors.append(np.sqrt(variances))
    return np.array(all_scores), np.array(errors)


def _exceeded(deviations: Table, tail: float) -> float:
    """Return the value that at most a share `tail` of the draws exceeds, at least 0."""
    rank = min(len(deviations), int(np.ceil((1 - tail) * (len(deviations) + 1))))
    return max(0.0, float(np.sort(deviations)[rank - 1]))


def _checked(scores: ArrayLike, num_programs: int, level: float) -> Table:
    table = np.asarray(scores, dtype=np.float64)
    _check_counts(table.shape[0] if table.ndim == 2 else 0, num_programs, level)
    if not table.shape[1]:
        raise ValueError("no scores: a mean needs at least one example")
    # NaN fails the test too.
    bad = table[~((table >= 0) & (table <= 1))]
    if len(bad):
        raise ValueError(f"score {bad[0]} is outside [0, 1]")
    return table


def _check_counts(found: int, num_programs: int, level: float) -> None:
    if not found:
        raise ValueError("no scores: a table of programs and examples is needed")
    if num_programs < found:
        raise ValueError(f"{found} programs have scores, but {num_programs} were chosen")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")


def _bounds(scores: Table, lower: Table, upper: Table) -> list[Bounds]:
    """Return the bounds, clipped to [0, 1] and to the score's side despite rounding errors."""
    rows: Sequence[tuple[float, ...]] = np.stack(
        [scores, np.clip(lower, 0, scores), np.clip(upper, scores, 1)], axis=1
    ).tolist()
    return [Bounds(*row) for row in rows]
