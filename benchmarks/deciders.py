"""How many generated examples each scheduler needs, on recorded full evaluations.

    python benchmarks/deciders.py [--seeds 20] [--figure docs/images/deciders.png]

Replays benchmarks/recorded.parquet: every candidate of every recipe on the three built-in tasks,
with its score of each example at each rung. Counted are the examples that have to be generated
until the programs that completed the last rung dominate 95, 97 and 99 % of the hypervolume that all
candidates together do (log2 of the program's bits against score, reference point 2^20 bits and
score 0), as the median over seeds, which shuffle the candidates. The oracle knows which candidates
to take: they alone are scored, on all examples.
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq

# Scripts see only their own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.simulation import Course, Track, simulate
from kilobit.search.candidate import Candidate, RungConfig
from kilobit.search.front.pareto import hypervolume, pareto_front
from kilobit.search.search import SchedulerConfig, make_scheduler

RECORDED = Path(__file__).parent / "recorded.parquet"
RUNGS = RungConfig(examples=18, train_steps=10, eta=3, count=4)
REFERENCE_BITS = 2**20
GOALS = (0.95, 0.97, 0.99)


@dataclass(frozen=True)
class Point:
    """A length and a score."""

    bits: int
    score: float


@dataclass(frozen=True)
class Way:
    """A scheduler with its settings."""

    name: str
    kind: str
    level: float | None = None
    order: str = "shuffled"


WAYS = (
    Way("full evaluation", "full"),
    Way("ASHA on score", "asha"),
    Way("multi-objective ASHA", "multi_objective"),
    Way("bits-aware halving", "bits_aware"),
    Way("bits-aware halving, racing", "bits_aware", 0.05),
    Way("the same, short ones first", "bits_aware", 0.05, "short_first"),
)


def read_tracks(task: str) -> list[Track]:
    """Return the recorded candidates of a task that were scored at every rung."""
    rows = pq.read_table(RECORDED, filters=[("task", "=", task)]).to_pylist()
    grouped: dict[str, list[dict]] = {}
    for row in rows:
        grouped.setdefault(row["candidate"], []).append(row)
    tracks = []
    for name, own in grouped.items():
        if len(own) < RUNGS.count or any(row["score"] is None for row in own):
            continue
        candidate = Candidate.model_validate_json(own[0]["spec"])
        steps = candidate.adapter.steps if candidate.adapter else 0
        plain = candidate.model_copy(update={"postprocess": ()}).id
        tracks.append(
            Track(
                candidate=name,
                model=task,
                bound_bits=own[0]["bound_bits"] + own[0]["payload_bits"] * (steps == 0),
                bits=tuple(row["program_bits"] for row in own),
                scores=tuple(row["score"] for row in own),
                examples=tuple(tuple(row["scores"]) for row in own),
                train_s=tuple(row["train_s"] or 0.0 for row in own),
                example_s=tuple(row["generate_s"] / len(row["scores"]) for row in own),
                trained_at=candidate.trained_at(RUNGS.ladder()),
                # More training makes other outputs, other post-processing does not.
                outputs=tuple(f"{plain}-{min(steps, r.train_steps)}" for r in RUNGS.ladder()),
            )
        )
    return tracks


def volume(points: Sequence[Point]) -> float:
    """Return the hypervolume of some points."""
    return hypervolume(points, REFERENCE_BITS)


def curve(course: Course, total: float) -> list[tuple[int, float]]:
    """Return the fraction of the hypervolume after so many examples, at every step."""
    points: list[Point] = []
    steps = [(0, 0.0)]
    for done in course.finished:
        points.append(Point(done.bits, done.score))
        points = pareto_front(points)
        fraction = volume(points) / total
        if fraction > steps[-1][1]:
            steps.append((done.examples, fraction))
    return steps


def needed(steps: Sequence[tuple[int, float]], goal: float) -> float:
    """Return after how many examples the goal is reached, inf if it never is."""
    return next((examples for examples, fraction in steps if fraction >= goal), math.inf)


def oracle(tracks: Sequence[Track], total: float, goal: float) -> int:
    """Return the examples that reach the goal if the best next program is taken each time."""
    points = [Point(track.bits[-1], track.scores[-1]) for track in tracks]
    front, taken = pareto_front(points), []
    while volume(taken) < goal * total:
        taken.append(max(front, key=lambda point: volume([*taken, point])))
    return len(taken) * RUNGS.ladder()[-1].num_examples


def ordered(tracks: Sequence[Track], seed: int, order: str) -> list[Track]:
    """Return the candidates in the order in which they are tried."""
    mixed = list(tracks)
    random.Random(seed).shuffle(mixed)  # noqa: S311 - an order, not a secret
    if order == "short_first":
        mixed.sort(key=lambda track: track.bound_bits)
        rounds = max(1, len(mixed) // 16)
        mixed = [track for first in range(rounds) for track in mixed[first::rounds]]
    return mixed


def run(way: Way, tracks: Sequence[Track], seed: int) -> Course:
    """Simulate one search."""
    config = SchedulerConfig.model_validate({"kind": way.kind})
    order = ordered(tracks, seed, way.order)
    return simulate(order, make_scheduler(config, RUNGS), RUNGS.ladder(), level=way.level)


def draw(
    path: Path, curves: dict[tuple[str, str], list[list[tuple[int, float]]]], tasks: Sequence[str]
) -> None:
    """Draw the median course of each way with the range of the middle half, one panel a task."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tasks), figsize=(5 * len(tasks), 4), sharey=True)
    for axis, task in zip(np.atleast_1d(axes), tasks, strict=True):
        most = max(steps[-1][0] for way in WAYS for steps in curves[task, way.name])
        grid = np.geomspace(100, most, 200)
        for way, colour in zip(WAYS, plt.get_cmap("tab10").colors, strict=False):
            found = np.array([[at(steps, x) for x in grid] for steps in curves[task, way.name]])
            low, middle, high = np.quantile(found, [0.25, 0.5, 0.75], axis=0)
            axis.plot(grid, middle, label=way.name, color=colour)
            axis.fill_between(grid, low, high, alpha=0.15, color=colour, linewidth=0)
        axis.axhline(GOALS[-1], color="grey", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", title=task, xlabel="generated examples", ylim=(0.5, 1.01))
    np.atleast_1d(axes)[0].set_ylabel("fraction of the hypervolume")
    np.atleast_1d(axes)[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def at(steps: Sequence[tuple[int, float]], examples: float) -> float:
    """Return the fraction that was reached after so many examples."""
    return max(fraction for when, fraction in steps if when <= examples)


def shown(examples: float) -> str:
    """Return a number of examples as text."""
    return "never" if math.isinf(examples) else f"{examples:,.0f}"


def main() -> None:
    """Print a table for each task and one for all together, and draw the courses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tasks", nargs="+", default=["numbers", "translation", "instructions"])
    parser.add_argument("--figure", type=Path, metavar="FILE")
    args = parser.parse_args()
    began, decisions = time.monotonic(), 0
    curves: dict[tuple[str, str], list[list[tuple[int, float]]]] = {}
    for task in args.tasks:
        tracks = read_tracks(task)
        total = volume([Point(track.bits[-1], track.scores[-1]) for track in tracks])
        best = " | ".join(shown(oracle(tracks, total, goal)) for goal in GOALS)
        print(f"\n{task}: {len(tracks)} candidates\n")
        print("| scheduler | 95 % | 97 % | 99 % | seeds that reach 99 % | in all | at the end |")
        print(f"|---|---|---|---|---|---|---|\n| oracle | {best} | | | |")
        for way in WAYS:
            courses = [run(way, tracks, seed) for seed in range(args.seeds)]
            decisions += sum(course.decisions for course in courses)
            steps = curves[task, way.name] = [curve(course, total) for course in courses]
            found = {goal: [needed(s, goal) for s in steps] for goal in GOALS}
            cells = " | ".join(shown(statistics.median_low(found[goal])) for goal in GOALS)
            reached = sum(map(math.isfinite, found[GOALS[-1]]))
            spent = statistics.median(course.examples for course in courses)
            print(
                f"| {way.name} | {cells} | {reached} of {args.seeds} | {spent:,.0f} "
                f"| {statistics.median(s[-1][1] for s in steps):.3f} |",
                flush=True,
            )
    print(f"\n{decisions} decisions in {time.monotonic() - began:.0f} s")
    if args.figure:
        draw(args.figure, curves, args.tasks)


if __name__ == "__main__":
    main()
