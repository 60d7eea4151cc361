"""Whether certified bounds hold after a search has chosen what is certified.

    python benchmarks/certification.py [--searches 2000]

Each simulated search draws 100 candidates with lengths and known true scores, scores all of them on
a search split, and takes the Pareto front; only then are the programs of the front run on a sealed
split. Scores of one example are correlated over candidates. Counted are the searches in which the
bounds hold for every program of the front: the simultaneous bounds of the sealed split, and beside
them the interval that the search split itself gives each program. Exits with 1 if the simultaneous
bounds hold in less than 95 % of the searches.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from kilobit.evaluators.metrics.bleu import NUM_STATISTICS, ORDER, corpus_bleu
from kilobit.evaluators.statistics.intervals import bootstrap_interval, mean_interval
from kilobit.evaluators.statistics.simultaneous import (
    CorpusStatistics,
    binary_bounds,
    bounded_bounds,
    corpus_bounds,
)
from kilobit.search.front.pareto import pareto_front
from kilobit.search.task import Bounds, Interval

LEVEL = 0.95
NUM_CANDIDATES = 100
NUM_EXAMPLES = 200
NUM_RESAMPLES = 500
POOL_CANDIDATES, POOL_EXAMPLES = 200, 5_000
# Correlation of what two candidates make of the same example.
SHARED = 0.6


@dataclass(frozen=True)
class Point:
    """A candidate of a simulated search."""

    bits: int
    score: float
    index: int


@dataclass
class Tally:
    """What became of the searches.

    Attributes:
        certified: searches in which all simultaneous bounds held.
        naive: searches in which the search split's intervals held for all programs of the front.
        programs: programs certified in all.
        widths: of their bounds, summed.
        flattery: by how much the search split's scores were above the true ones, summed.
    """

    certified: int = 0
    naive: int = 0
    programs: int = 0
    widths: float = 0.0
    flattery: float = 0.0

    def add(
        self, truth: Sequence[float], naive: Sequence[Interval], bounds: Sequence[Bounds]
    ) -> None:
        """Take in one search."""
        self.certified += all(b.lower <= t <= b.upper for t, b in zip(truth, bounds, strict=True))
        self.naive += all(
            i.lower is not None and i.upper is not None and i.lower <= t <= i.upper
            for t, i in zip(truth, naive, strict=True)
        )
        self.programs += len(truth)
        self.widths += sum(b.upper - b.lower for b in bounds)
        self.flattery += sum(i.score - t for t, i in zip(truth, naive, strict=True))


def qualities(rng: np.random.Generator, number: int) -> NDArray[np.float64]:
    """Return how good candidates are; many are close to each other, as in a search."""
    return rng.choice([-0.5, 0.3, 0.8], size=number) + rng.normal(0, 0.15, size=number)


def right(rng: np.random.Generator, quality: NDArray[np.float64], parts: int) -> NDArray[np.int64]:
    """Return how many of the parts of each example each candidate gets right."""
    shape = (len(quality), NUM_EXAMPLES, parts)
    hard = rng.normal(size=(1, NUM_EXAMPLES, 1))
    own = rng.normal(size=shape)
    shift = np.sqrt(SHARED) * hard + np.sqrt(1 - SHARED) * own
    return (quality[:, None, None] + shift > 0).sum(axis=2)


def front_of(rng: np.random.Generator, scores: Sequence[float]) -> list[int]:
    """Return the candidates on the front of random lengths against `scores`."""
    lengths = rng.permutation(len(scores))
    points = [Point(int(lengths[i]), score, i) for i, score in enumerate(scores)]
    return [point.index for point in pareto_front(points)]


def mean_search(
    parts: int, bounds_of: Callable[..., list[Bounds]], rng: np.random.Generator, tally: Tally
) -> None:
    """Search with scores that are the share of `parts` that are right."""
    quality = qualities(rng, NUM_CANDIDATES)
    on_search = right(rng, quality, parts) / parts
    front = front_of(rng, on_search.mean(axis=1).tolist())
    on_sealed = right(rng, quality[front], parts) / parts
    bounds = bounds_of(on_sealed, len(front), LEVEL)
    naive = [mean_interval(on_search[i].tolist()) for i in front]
    # Of a sum of two standard normals that together have variance 1.
    tally.add(ndtr(quality[front]).tolist(), naive, bounds)


@dataclass(frozen=True)
class Pool:
    """Statistics of many sentences, of which a split is drawn."""

    rows: NDArray[np.int64]
    best: NDArray[np.int64]
    truth: NDArray[np.float64]


def pool(rng: np.random.Generator) -> Pool:
    """Return sentences of 4 to 19 tokens as candidates translate them, half of them whole."""
    shape = (POOL_CANDIDATES, POOL_EXAMPLES)
    lengths = rng.integers(4, 20, size=POOL_EXAMPLES)
    hard = rng.normal(size=POOL_EXAMPLES)
    shift = np.sqrt(SHARED) * hard + np.sqrt(1 - SHARED) * rng.normal(size=shape)
    precision = ndtr(qualities(rng, POOL_CANDIDATES)[:, None] + shift)
    whole = rng.random(shape) < precision / 2
    precision[whole] = 1.0
    spoken = np.maximum(1, lengths + np.where(whole, 0, rng.integers(-2, 3, size=shape)))
    rows = np.zeros((*shape, NUM_STATISTICS), dtype=np.int64)
    best = np.zeros((POOL_EXAMPLES, NUM_STATISTICS), dtype=np.int64)
    for order in range(ORDER):
        rows[..., ORDER + order] = np.maximum(0, spoken - order)
        most = np.minimum(rows[..., ORDER + order], np.maximum(0, lengths - order))
        rows[..., order] = rng.binomial(most, precision ** (order + 1))
        best[:, order] = best[:, ORDER + order] = np.maximum(0, lengths - order)
    rows[..., -2], rows[..., -1] = spoken, lengths
    best[:, -2:] = lengths[:, None]
    return Pool(rows, best, corpus_bleu(rows.sum(axis=1)))


def bleu_search(found: Pool, rng: np.random.Generator, tally: Tally) -> None:
    """Search with BLEU over a corpus."""
    candidates = rng.choice(POOL_CANDIDATES, NUM_CANDIDATES, replace=False)
    search, sealed = rng.integers(POOL_EXAMPLES, size=(2, NUM_EXAMPLES))
    on_search = found.rows[candidates[:, None], search]
    front = front_of(rng, corpus_bleu(on_search.sum(axis=1)).tolist())
    rows = found.rows[candidates[front][:, None], sealed]
    worst = rows.copy()
    worst[..., :ORDER] = 0
    corpus = CorpusStatistics(rows, worst, found.best[sealed], corpus_bleu)
    bounds = corpus_bounds(corpus, len(front), LEVEL, num_resamples=NUM_RESAMPLES)
    naive = [bootstrap_interval(on_search[i], corpus_bleu) for i in front]
    tally.add(found.truth[candidates[front]].tolist(), naive, bounds)


def simulate(kind: str, searches: int, seed: int = 0) -> Tally:
    """Simulate searches whose scores are `binary`, `bounded` or `bleu`."""
    tally, rng = Tally(), np.random.default_rng(seed)
    sentences = pool(rng) if kind == "bleu" else None
    for _ in range(searches):
        if sentences is not None:
            bleu_search(sentences, rng, tally)
        elif kind == "binary":
            mean_search(1, binary_bounds, rng, tally)
        else:
            mean_search(4, bounded_bounds, rng, tally)
    return tally


def main() -> int:
    """Print a row for each kind of score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(
        "| scores | sealed bounds hold for all | search split's intervals hold for all | "
        "programs | search score above true | width of bounds | processor s |\n" + "|---" * 7 + "|"
    )
    enough = True
    for kind in ("binary", "bounded", "bleu"):
        began = time.process_time()
        tally = simulate(kind, args.searches, args.seed)
        enough &= tally.certified >= LEVEL * args.searches
        print(
            f"| {kind} | {100 * tally.certified / args.searches:.1f} % | "
            f"{100 * tally.naive / args.searches:.1f} % | {tally.programs / args.searches:.1f} | "
            f"{tally.flattery / tally.programs:+.4f} | {tally.widths / tally.programs:.3f} | "
            f"{time.process_time() - began:.0f} |",
            flush=True,
        )
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
