"""Use of the workers' time, tokens and model FLOPs, from the ledger.

Model FLOPs count two per parameter and token read or written, and two more per token trained on:
gradients pass through the base weights but none are computed for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Usage:
    """A worker's time in seconds, its tokens and its model FLOPs.

    Attributes:
        worker: its name.
        load_s: loading its base model, over all starts.
        train_s: training adapters.
        generate_s: generating.
        code_s: coding, building and decoding programs.
        other_s: scoring, building adapters, writing to the ledger.
        idle_s: waiting, between being ready and its last rung.
        trained: tokens trained on.
        generated: tokens read and written in generation.
        flops: model FLOPs.
    """

    worker: str
    load_s: float
    train_s: float
    generate_s: float
    code_s: float
    other_s: float
    idle_s: float
    trained: int
    generated: int
    flops: float

    @property
    def compute_share(self) -> float:
        """Return the model's compute time as a share of the time since the worker was ready."""
        compute = self.train_s + self.generate_s
        return compute / max(compute + self.code_s + self.other_s + self.idle_s, 1e-9)


def usage_of(workers: Sequence[Row], rungs: Sequence[Row]) -> list[Usage]:
    """Return the usage of each worker, sorted by name.

    Args:
        workers: rows of the table `workers`.
        rungs: rows of the table `rungs`; those without a worker are left out.
    """
    loads, done = _by_worker(workers), _by_worker(rungs)
    return [_usage(name, loads[name], done.get(name, [])) for name in sorted(loads)]


def _by_worker(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["worker"], []).append(row)
    return found


def _usage(name: str, loads: Sequence[Row], rungs: Sequence[Row]) -> Usage:
    def total(column: str) -> float:
        return sum(row.get(column) or 0 for row in rungs)

    train_s, generate_s, code_s = total("train_s"), total("generate_s"), total("code_s")
    busy_s = total("seconds")
    trained = int(total("train_tokens"))
    generated = int(total("input_tokens") + total("output_tokens"))
    numbers = loads[0]["num_parameters"] or 0
    return Usage(
        name,
        sum(row["load_s"] or 0 for row in loads),
        train_s,
        generate_s,
        code_s,
        max(0.0, busy_s - train_s - generate_s - code_s),
        max(0.0, _there_s(loads, rungs) - busy_s),
        trained,
        generated,
        2.0 * numbers * (2 * trained + generated),
    )


def _there_s(loads: Sequence[Row], rungs: Sequence[Row]) -> float:
    """Return the seconds from each attempt's first load to its last rung."""
    starts = sorted(row["started_at"] for row in loads)
    seconds, before = 0.0, None
    for attempt in sorted({row["attempt"] for row in rungs}):
        last = max(row["finished_at"] for row in rungs if row["attempt"] == attempt)
        own = [start for start in starts if start < last and (before is None or start > before)]
        if own:
            seconds += (last - own[0]).total_seconds()
        before = last
    return seconds
