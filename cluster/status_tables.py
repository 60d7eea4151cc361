"""The tables of the command `status`, and its lines about workers."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.standing import Standing
from cluster.terminal import fitting_table, folded
from evaluators.usage import Usage

_WORKERS_SHOWN = 8


def rungs_table(console: Console, standing: Standing) -> list[Table | Text]:
    """Return the table of rungs: how many candidates finished each."""
    columns = {
        "rung": [str(rung.index) for rung in standing.rungs],
        "examples": [str(rung.num_examples) for rung in standing.rungs],
        "train steps": [str(rung.train_steps) for rung in standing.rungs],
        "finished": [str(rung.finished) for rung in standing.rungs],
        "failed": [str(rung.failed) for rung in standing.rungs],
    }
    shown = fitting_table(console, columns, ("train steps", "examples", "failed", "finished"))
    if standing.coarser:
        versions = "versions of adapters" if standing.coarser > 1 else "version of an adapter"
        failed = f", {standing.coarser_failed} of them failed" if standing.coarser_failed else ""
        shown.append(folded(f" and {standing.coarser} coarser {versions}{failed}"))
    return shown


def models_table(
    console: Console, standing: Standing, targets: Sequence[float]
) -> list[Table | Text]:
    """Return the table of base models: the best results of each."""
    models = standing.models
    best = [one.best for one in models]
    columns = {
        "base model": [one.model for one in models],
        "begun": [str(one.begun) for one in models],
        "ended": [str(one.ended) for one in models],
        "best": ["" if one is None else f"{one[0]:.3f}" for one in best],
        "bits": ["" if one is None else str(one[1]) for one in best],
        "examples": ["" if one is None else str(one[2]) for one in best],
        "front": [str(one.front) for one in models],
    }
    reached = [f"≥ {target:g}" for target in targets]
    for index, head in enumerate(reached):
        bits = [one.shortest[index] for one in models]
        columns[head] = ["" if one is None else str(one) for one in bits]
    least_needed = ("examples", "begun", "front", "ended", *reversed(reached), "bits", "best")
    title = "best score so far; fewest bits that reach each target score"
    return fitting_table(console, columns, least_needed, title)


def workers_table(console: Console, usage: Sequence[Usage]) -> list[Table | Text]:
    """Return the table of the least busy workers, which are the ones to look into."""
    shown = sorted(usage, key=lambda one: one.compute_share)[:_WORKERS_SHOWN]
    columns = {
        "worker": [one.worker for one in shown],
        "computing": [f"{one.compute_share:.0%}" for one in shown],
        "idle": [f"{one.idle_s:.0f} s" for one in shown],
        "tokens": [str(one.trained + one.generated) for one in shown],
        "model GFLOP/s": [_speed(one) for one in shown],
    }
    if len(usage) > _WORKERS_SHOWN:
        mean = sum(one.compute_share for one in usage) / len(usage)
        for head, cell in zip(columns, (f"all {len(usage)}", f"{mean:.0%}"), strict=False):
            columns[head].append(cell)
        for head in ("idle", "tokens", "model GFLOP/s"):
            columns[head].append("")
    return fitting_table(console, columns, ("tokens", "model GFLOP/s", "idle", "computing"))


def usage_line(one: Usage) -> str:
    """Return a line on how a worker spent its time, with its tokens and speed."""
    seconds = {
        "loading": one.load_s,
        "training": one.train_s,
        "generating": one.generate_s,
        "coding": one.code_s,
        "other": one.other_s,
        "idle": one.idle_s,
    }
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    speed = f", {_speed(one)} model GFLOP/s" if _speed(one) else ""
    return (
        f"{one.worker}: {spent}; {one.trained + one.generated} tokens{speed}; computing "
        f"{one.compute_share:.0%} of the time since it was ready"
    )


def _speed(one: Usage) -> str:
    compute_s = one.train_s + one.generate_s
    return f"{one.flops / compute_s / 1e9:.2f}" if compute_s else ""
