"""How often a race within a rung errs, and how many examples it takes.

    python benchmarks/racing.py [--pairs 2000]

Prints two Markdown tables. The first: of simulated pairs at equal score, the share that is
eliminated, for each level. The second: of pairs with a real difference, the share that is
eliminated and the mean number of examples scored, beside a fixed size. Each for races that know
the incumbent's scores on the whole rung and for races that don't; the fixed size is the whole rung
for the former, and for the latter that of the exact sign test (McNemar) which eliminates as many
at the same level.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.stats import binom

from benchmarks.oracles import e_values
from kilobit.search.schedulers.racing import Race, RacingConfig, Verdict

LEVELS = (0.01, 0.05, 0.1, 0.2)
RUNG = 48
# Examples between two looks.
BLOCK = 6
# Power is compared up to here: no fixed size gives all of it.
LARGEST_POWER = 0.99

Scores = np.ndarray[Any, np.dtype[np.float64]]
Draw = Callable[[np.random.Generator, int], tuple[Scores, Scores]]


def zero_one(mine: float, theirs: float, shared: float) -> Draw:
    """Return pairs of 0/1 scores with these means, a share of them decided by the same draw."""

    def draw(rng: np.random.Generator, count: int) -> tuple[Scores, Scores]:
        ours = rng.random(count)
        other = np.where(rng.random(count) < shared, ours, rng.random(count))
        return (ours < mine).astype(float), (other < theirs).astype(float)

    return draw


def bounded(mean: float, shared: float) -> Draw:
    """Return pairs of scores within [0, 1] with equal means, a share of each in common."""

    def draw(rng: np.random.Generator, count: int) -> tuple[Scores, Scores]:
        common, ours, theirs = rng.beta(4 * mean, 4 * (1 - mean), size=(3, count))
        return shared * common + (1 - shared) * ours, shared * common + (1 - shared) * theirs

    return draw


def in_clusters(rng: np.random.Generator, count: int) -> tuple[Scores, Scores]:
    """Return 0/1 scores that are equal within clusters of six, in random order."""
    mine, theirs = np.repeat(rng.random((2, -(-count // 6))) < 0.5, 6, axis=1)[:, :count]
    order = rng.permutation(count)
    return mine[order].astype(float), theirs[order].astype(float)


def rare(rng: np.random.Generator, count: int) -> tuple[Scores, Scores]:
    """Return an even score against one that is 1 in one of eight and 0 otherwise."""
    return np.full(count, 0.125), (rng.random(count) < 0.125).astype(float)


def of_equal_sums(draw: Draw) -> Draw:
    """Return a rung in random order on which both have exactly the same mean."""

    def rung(rng: np.random.Generator, count: int) -> tuple[Scores, Scores]:
        order = rng.permutation(count)
        if draw is rare:
            mine, theirs = np.full(count, 0.125), (np.arange(count) < count // 8).astype(float)
        else:
            ours, other = draw(rng, count // 2)
            mine, theirs = np.concatenate([ours, other]), np.concatenate([other, ours])
        return mine[order], theirs[order]

    return rung


def race(mine: Scores, theirs: Scores, *, known: bool) -> Iterator[tuple[float, Verdict | None]]:
    """Yield for each level the verdict, from one race at the strictest of them."""
    running = Race(min(LEVELS), theirs if known else None)
    verdict: Verdict | None = None
    found: dict[float, Verdict] = {}
    for pair in zip(mine, theirs, strict=True):
        verdict = running.add(pair[:1], pair[1:])
        evidence = e_values(running)
        for level in LEVELS:
            if level not in found and max(evidence) >= 1 / level:
                found[level] = "loses" if evidence.loses > evidence.beats else "beats"
        if verdict is not None:
            break
    for level in LEVELS:
        yield level, found.get(level, verdict)


def wrong_rates(draw: Draw, pairs: int, *, known: bool) -> list[float]:
    """Return for each level how many of the pairs at equal score are eliminated."""
    rng = np.random.default_rng(0)
    rung = of_equal_sums(draw) if known else draw
    wrong = dict.fromkeys(LEVELS, 0)
    for _ in range(pairs):
        for level, verdict in race(*rung(rng, RUNG), known=known):
            wrong[level] += verdict == "loses"
    return [wrong[level] / pairs for level in LEVELS]


def power(draw: Draw, size: int, pairs: int, *, known: bool) -> tuple[float, float]:
    """Return how many of the pairs are eliminated, and the mean number of examples scored."""
    rng, config = np.random.default_rng(0), RacingConfig()
    eliminated = scored = 0
    for _ in range(pairs):
        mine, theirs = draw(rng, size)
        running, verdict = Race(config.level, theirs if known else None), None
        for first in range(0, size, BLOCK):
            block = slice(first, first + BLOCK)
            verdict = running.add(mine[block], theirs[block])
            scored += len(mine[block])
            if verdict is not None:
                break
        eliminated += verdict == "loses"
    return eliminated / pairs, scored / pairs


def sign_test_size(worse: float, better: float, level: float, wanted: float) -> int:
    """Return the fewest examples on which the one-sided exact sign test has the wanted power.

    Args:
        worse: chance that an example is one that only the incumbent solves.
        better: chance that it is one that only the candidate solves.
        level: the test's level.
        wanted: its power.
    """
    differ, size = worse + better, 0
    while True:
        size += 1
        counts = np.arange(size + 1)
        # The fewest losses among `counts` differing examples that half a chance rarely gives.
        critical = binom.isf(level, counts, 0.5) + 1
        rejects = binom.sf(critical - 1, counts, worse / differ)
        if float(binom.pmf(counts, size, differ) @ rejects) >= wanted:
            return size


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000)
    args = parser.parse_args()
    nulls: dict[str, Draw] = {
        f"0/1, mean {mean}, {shared:.0%} in common": zero_one(mean, mean, shared)
        for mean, shared in ((0.1, 0.0), (0.5, 0.0), (0.5, 0.5), (0.9, 0.5), (0.9, 0.9))
    }
    nulls |= {
        f"bounded, mean {mean}, {shared:.0%} in common": bounded(mean, shared)
        for mean, shared in ((0.5, 0.0), (0.8, 0.5))
    }
    nulls["always 0.125 against 1 in one of eight"] = rare
    nulls["0/1, mean 0.5, in clusters of six"] = in_clusters
    levels = " | ".join(map(str, LEVELS))
    print(f"| equal scores | rung known | {levels} |\n|---|---|{'---|' * len(LEVELS)}")
    for known in (False, True):
        for name, draw in nulls.items():
            rates = wrong_rates(draw, args.pairs, known=known)
            cells = " | ".join(f"{rate:.4f}" for rate in rates)
            print(f"| {name} | {'yes' if known else 'no'} | {cells} |", flush=True)
    level = RacingConfig().level
    print("\n| difference | rung | rung known | eliminated | examples | fixed size |")
    print("|---|---|---|---|---|---|")
    for difference in (0.1, 0.3, 0.8):
        theirs, shared = 0.85, 0.5
        mine = theirs - difference
        worse = shared * difference + (1 - shared) * theirs * (1 - mine)
        better = (1 - shared) * mine * (1 - theirs)
        for size in (16, 48, 144, 432):
            for known in (False, True):
                rate, examples = power(
                    zero_one(mine, theirs, shared), size, args.pairs // 4, known=known
                )
                fixed = sign_test_size(worse, better, level, min(rate, LARGEST_POWER))
                print(
                    f"| -{difference} | {size} | {'yes' if known else 'no'} | {rate:.1%} "
                    f"| {examples:.1f} | {size if known else fixed} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
