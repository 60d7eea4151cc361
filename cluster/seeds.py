"""Certified complexity over runs of several seeds, as `certify` prints it."""

import itertools
from collections.abc import Mapping, Sequence

from rich.console import Console

from cluster.run_folder import RunFolder
from search.certified import (
    best_lower,
    certified_complexity,
    log2_bits,
    log2_ratios,
    spread,
)
from search.front import FrontPoint
from search.sweep import SweepError

Group = tuple[str, str]


def refuse_same_seeds(runs: Sequence[RunFolder]) -> None:
    """Refuse two runs of the same task, base model and seed.

    Raises:
        SweepError: naming both.
    """
    seen: dict[tuple[str, str, int], RunFolder] = {}
    for run in runs:
        for model in run.sweep.base_models:
            key = (run.sweep.task.name, model.label, run.sweep.seed)
            other = seen.setdefault(key, run)
            if other is not run:
                raise SweepError(
                    f"{other.path} and {run.path} both have seed {key[2]} for {key[1]} on "
                    f"{key[0]}: give runs of different seeds, or only one of them"
                )


def print_seeds(
    console: Console, runs: Sequence[tuple[int, list[FrontPoint]]], targets: Sequence[float]
) -> None:
    """Print certified complexity per seed with its mean, and the ratios between base models.

    Args:
        console: where to print.
        runs: the seed of each run and its points.
        targets: scores to reach.
    """
    groups: dict[Group, dict[int, list[FrontPoint]]] = {}
    for seed, points in runs:
        for point in points:
            by_seed = groups.setdefault((point.task, point.model), {})
            by_seed.setdefault(seed, []).append(point)
    for target in targets:
        console.print(f"\ncertified bits at score ≥ {target:g}, seed by seed")
        found: dict[Group, dict[int, int | None]] = {}
        for (task, model), by_seed in groups.items():
            found[task, model] = {
                seed: certified_complexity(points, target)
                for seed, points in sorted(by_seed.items())
            }
            console.print(f"  {task}, {model}: {_each_seed(found[task, model], by_seed)}")
            values = list(log2_bits(found[task, model]).values())
            out_of = f"{len(values)} of {len(by_seed)} seeds"
            if values:
                console.print(f"    log2 bits, {out_of}: {_spread_text(values)}")
        for one, other in itertools.combinations(found, 2):
            if one[0] == other[0]:
                ratios = log2_ratios(found[one], found[other])
                _print_difference(console, (one[1], other[1]), ratios)


def _each_seed(bits: Mapping[int, int | None], points: Mapping[int, list[FrontPoint]]) -> str:
    words = []
    for seed, found in bits.items():
        if found is None:
            best = best_lower(points[seed])
            why = "no certificate" if best is None else f"best lower bound {best:.3f}"
            words.append(f"seed {seed} not certified ({why})")
        else:
            words.append(f"seed {seed} {found}")
    return ", ".join(words)


def _spread_text(values: Sequence[float]) -> str:
    found = spread(values)
    kind = "95 % t-interval" if found.method == "t-interval" else found.method
    return f"mean {found.mean:.2f}, {kind} {found.low:.2f} - {found.high:.2f}"


def _print_difference(
    console: Console, models: tuple[str, str], ratios: Mapping[int, float]
) -> None:
    if not ratios:
        return
    one, other = models
    values = list(ratios.values())
    each = ", ".join(f"seed {seed} {ratio:+.2f}" for seed, ratio in ratios.items())
    mean = spread(values).mean
    assert mean is not None
    console.print(
        f"  {one} over {other}, log2 of the ratio of bits: {each}\n"
        f"    {len(values)} paired seeds: {_spread_text(values)}; {one} needs {2**mean:.2f} times "
        f"the bits of {other}"
    )
