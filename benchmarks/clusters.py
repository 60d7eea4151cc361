"""Whether bounds and intervals hold for examples that belong together, such as one passage's.

    python benchmarks/clusters.py [--splits 2000]

Each simulated split has clusters of examples with 0/1 scores. A cluster draws the chance of its
examples from a beta distribution with the given intraclass correlation (ICC). In `larger are
harder` the chance also depends on the size of the cluster. Counted are the splits whose bounds
contain the true score of examples: the exact binomial bound and Wilson's interval, which take the
examples for independent, and the bets on clusters and Wilson's interval of the effective number of
examples, which do not. Exits with 1 if the bets hold in less than 95 % of the splits of a row.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kilobit.evaluators.statistics.intervals import mean_interval
from kilobit.evaluators.statistics.simultaneous import binary_bounds, bounded_bounds
from kilobit.search.task import Bounds, Interval

LEVEL = 0.95
# Number of clusters, sizes that they may have, mean score, ICC, and how much harder the largest is.
ROWS: dict[str, tuple[int, Sequence[int], float, float, float]] = {
    "independent": (50, (4,), 0.7, 0.0, 0.0),
    "little together": (50, (4,), 0.7, 0.1, 0.0),
    "much together": (50, (4,), 0.7, 0.5, 0.0),
    "much together, near 1": (50, (4,), 0.95, 0.5, 0.0),
    "equal in a cluster": (50, (4,), 0.7, 1.0, 0.0),
    "few clusters": (12, (10, 20, 30), 0.7, 0.3, 0.0),
    "many sizes": (60, (1, 2, 5, 20), 0.7, 0.3, 0.0),
    "larger are harder": (60, (1, 2, 5, 20), 0.7, 0.3, 0.4),
}


def truth_of(sizes: Sequence[int], mean: float, harder: float) -> tuple[NDArray[np.float64], float]:
    """Return the mean score in clusters of each size, and the mean over examples."""
    number = np.asarray(sizes, dtype=float)
    means = mean - harder * (number - number.min()) / max(1.0, np.ptp(number))
    return means, float((number * means).sum() / number.sum())


def split_of(
    rng: np.random.Generator,
    row: tuple[int, Sequence[int], float, float, float],
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the scores of a split and the names of their clusters."""
    count, sizes, mean, icc, harder = row
    means, _ = truth_of(sizes, mean, harder)
    kind = rng.integers(len(sizes), size=count)
    chance = means[kind]
    if 0 < icc < 1:
        strength = 1 / icc - 1
        chance = rng.beta(chance * strength, (1 - chance) * strength)
    elif icc == 1:
        chance = (rng.random(count) < chance).astype(float)
    size = np.asarray(sizes)[kind]
    scores = (rng.random(size.sum()) < np.repeat(chance, size)).astype(float)
    return scores, [str(cluster) for cluster in np.repeat(np.arange(count), size)]


def simulate(name: str, splits: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return for each kind of bound the share of splits in which it held, and its mean width."""
    rng = np.random.default_rng(seed)
    _, truth = truth_of(ROWS[name][1], ROWS[name][2], ROWS[name][4])
    found: dict[str, list[tuple[bool, float]]] = {}
    for _ in range(splits):
        scores, clusters = split_of(rng, ROWS[name])
        each: dict[str, Bounds | Interval] = {
            "binomial": binary_bounds([scores], 1, LEVEL)[0],
            "bets": bounded_bounds([scores], 1, LEVEL, clusters)[0],
            "Wilson": mean_interval(scores.tolist()),
            "Wilson, effective": mean_interval(scores.tolist(), clusters),
        }
        for kind, one in each.items():
            assert one.lower is not None
            assert one.upper is not None
            held = one.lower - 1e-9 <= truth <= one.upper + 1e-9
            found.setdefault(kind, []).append((held, one.upper - one.lower))
    return {
        kind: (float(np.mean([h for h, _ in each])), float(np.mean([w for _, w in each])))
        for kind, each in found.items()
    }


def main() -> int:
    """Print a row for each kind of clusters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    kinds = ("binomial", "bets", "Wilson", "Wilson, effective")
    print(
        f"| clusters | sizes | ICC | {' | '.join(f'{kind}: holds, width' for kind in kinds)} |\n"
        + "|---" * 7
        + "|"
    )
    began, enough = time.process_time(), True
    for name, (count, sizes, _, icc, _) in ROWS.items():
        found = simulate(name, args.splits, args.seed)
        enough &= found["bets"][0] >= LEVEL
        cells = " | ".join(f"{100 * found[k][0]:.1f} %, {found[k][1]:.3f}" for k in kinds)
        shown = ", ".join(map(str, sizes))
        print(f"| {name}: {count} | {shown} | {icc:g} | {cells} |", flush=True)
    print(f"\n{time.process_time() - began:.0f} s of processor time")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
