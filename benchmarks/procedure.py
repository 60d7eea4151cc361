"""Whether the bounds of a whole procedure hold, for repeated searches on data of several kinds.

    python benchmarks/procedure.py [--repeats 2000]

Each repeat draws data and runs a simulated search several times, each with its own seed. A search
draws 60 candidates with random lengths, scores them on its search split, and chooses at each target
the shortest that reaches it, or else the best; the choice is scored on its sealed split. Counted
are the repeats whose bounds contain, at all targets at once, the mean true score of the programs
that such searches choose, which 5,000 other searches give. Beside the bounds: the scores on the
search splits with the same quantile, Student's interval of the runs alone, and the examples alone.

`own data`: each run has examples of its own. `one test set`: runs share the sealed split.
`divided again`: runs divide 600 examples in other ways. `trained`: the same, and what a run trains
on changes all of its candidates. Exits with 1 if the bounds hold in less than 95 % of the repeats
with data of the first three kinds.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from kilobit.evaluators.statistics.procedure import HeldOut, procedure_bounds, quantile

LEVEL, TARGETS = 0.95, (0.6, 0.75)
NUM_CANDIDATES, POOL, SEARCH, SEALED = 60, 600, 150, 150
# Correlation of what two candidates make of the same example.
SHARED = 0.6
# What another train split changes in the quality of all candidates, as a standard deviation.
TRAINED = 0.1
NUM_SEARCHES = 5_000
KINDS = ("own data", "one test set", "divided again", "trained")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """Examples: how hard they are, and what training on them teaches."""

    hard: Floats
    lesson: Floats


@dataclass(frozen=True)
class Search:
    """The outcome of a search at each target: scores on its splits, and the true score."""

    units: list[str]
    held_out: Floats
    on_search: Floats
    truth: Floats


def data_of(rng: np.random.Generator, size: int = POOL) -> Data:
    """Return new examples."""
    return Data(rng.normal(size=size), rng.normal(size=size))


def search(
    rng: np.random.Generator, kind: str, data: Data, order: NDArray[np.int64], sealed: Data
) -> Search:
    """Search once; `order` divides the data, and `sealed` has the sealed examples."""
    quality = rng.choice([-0.5, 0.2, 0.6], NUM_CANDIDATES) + rng.normal(0, 0.2, NUM_CANDIDATES)
    if kind == "trained":
        train = data.lesson[order[SEARCH + SEALED :]]
        quality = quality + TRAINED * train.mean() * np.sqrt(len(train))
    own = np.sqrt(1 - SHARED)
    shift = quality[:, None] + np.sqrt(SHARED) * data.hard[order[:SEARCH]]
    scores = (shift + own * rng.normal(size=shift.shape) > 0).mean(axis=1)
    by_length = rng.permutation(NUM_CANDIDATES)
    chosen = []
    for target in TARGETS:
        reached = by_length[scores[by_length] >= target]
        chosen.append(int(reached[0]) if len(reached) else int(scores.argmax()))
    shift = quality[chosen] + np.sqrt(SHARED) * sealed.hard[:, None]
    # The same program has the same outputs at both targets.
    places = [chosen.index(one) for one in chosen]
    noise = rng.normal(size=(len(sealed.hard), len(chosen)))[:, places]
    right = (shift + own * noise > 0).astype(float)
    return Search([], right, scores[chosen], ndtr(quality[chosen]))


def repeat(rng: np.random.Generator, kind: str, runs: int) -> list[Search]:
    """Return the searches of one repeat, with the names of their sealed examples."""
    data, test = data_of(rng), data_of(rng, SEALED)
    found = []
    for run in range(runs):
        if kind == "own data":
            data, test = data_of(rng), data_of(rng, SEALED)
        order = rng.permutation(POOL)
        names = [f"{run if kind == 'own data' else ''} {i}" for i in range(SEALED)]
        if kind in ("divided again", "trained"):
            places = order[SEARCH : SEARCH + SEALED]
            test = Data(data.hard[places], data.lesson[places])
            names = [str(place) for place in places]
        one = search(rng, kind, data, order, test)
        found.append(Search(names, one.held_out, one.on_search, one.truth))
    return found


def expected(kind: str, searches: int, seed: int) -> Floats:
    """Return the mean true score of the programs that searches choose at each target."""
    rng = np.random.default_rng([seed, 1])
    return np.mean([repeat(rng, kind, 1)[0].truth for _ in range(searches)], axis=0)


def simulate(
    kind: str, runs: int, repeats: int, truth: Floats, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return for each kind of interval the share that holds at all targets, and its width."""
    rng, found = np.random.default_rng([seed, runs]), {}
    for _ in range(repeats):
        done = repeat(rng, kind, runs)
        bounds = procedure_bounds([HeldOut(one.units, one.held_out) for one in done], LEVEL)
        means = np.array([one.held_out.mean(axis=0) for one in done])
        chosen = np.array([one.on_search for one in done])
        t, centre = quantile(runs, len(TARGETS), LEVEL), means.mean(axis=0)
        many = quantile(10**9, len(TARGETS), LEVEL)
        error = means.std(axis=0, ddof=1) / np.sqrt(runs)
        seen = chosen.std(axis=0, ddof=1) / np.sqrt(runs)
        examples = np.sqrt(centre * (1 - centre) / (runs * SEALED))
        each = {
            "bounds": (
                np.array([bound.lower for bound in bounds]),
                np.array([bound.upper for bound in bounds]),
            ),
            "search split": (chosen.mean(axis=0) - t * seen, chosen.mean(axis=0) + t * seen),
            "runs alone": (centre - t * error, centre + t * error),
            "examples alone": (centre - many * examples, centre + many * examples),
        }
        for name, (lower, upper) in each.items():
            held = bool(((lower <= truth) & (truth <= upper)).all())
            found.setdefault(name, []).append((held, float((upper - lower).mean())))
    return {
        name: (float(np.mean([h for h, _ in rows])), float(np.mean([w for _, w in rows])))
        for name, rows in found.items()
    }


def main() -> int:
    """Print a row for each kind of data and number of runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = ("bounds", "search split", "runs alone", "examples alone")
    print(
        f"| data | runs | {' | '.join(f'{n}: hold, width' for n in names)} |\n" + "|---" * 6 + "|"
    )
    began, enough = time.process_time(), True
    truth = expected("own data", NUM_SEARCHES, args.seed)
    for kind in KINDS:
        if kind == "trained":
            truth = expected(kind, NUM_SEARCHES, args.seed)
        for runs in (3, 5, 10):
            found = simulate(kind, runs, args.repeats, truth, args.seed)
            # Three standard errors of the simulation are allowed.
            slack = 3 * np.sqrt(LEVEL * (1 - LEVEL) / args.repeats)
            enough &= kind == "trained" or found["bounds"][0] >= LEVEL - slack
            cells = " | ".join(f"{100 * found[n][0]:.1f} %, {found[n][1]:.3f}" for n in names)
            print(f"| {kind} | {runs} | {cells} |", flush=True)
    print(f"\n{time.process_time() - began:.0f} s of processor time")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
