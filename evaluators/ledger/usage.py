"""Use of the workers' time, tokens and model FLOPs, from the ledger.

Model FLOPs count two per parameter and token read or written, and two more per token trained on:
gradients pass through the base weights but none are computed for them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kilobit.search.records import RungRecord, WorkerRecord

# No rung lasts thirty years.
_MOST_S = 1e9


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


def usage_of(workers: Iterable[WorkerRecord], rungs: Iterable[RungRecord]) -> list[Usage]:
    """Return the usage of each worker, sorted by name.

    Args:
        workers: the model loads.
        rungs: candidates at rungs; those without a worker are left out.
    """
    loads: dict[str, list[WorkerRecord]] = defaultdict(list)
    done: dict[str | None, list[RungRecord]] = defaultdict(list)
    for load in workers:
        loads[load.worker].append(load)
    for rung in rungs:
        done[rung.worker].append(rung)
    return [_usage(name, loads[name], done[name]) for name in sorted(loads)]


def _lasted(seconds: float | None) -> timedelta:
    """Return seconds as a duration, none for what no rung can last."""
    known = seconds is not None and 0 <= seconds < _MOST_S
    return timedelta(seconds=seconds) if known and seconds else timedelta()


def spans_of(rungs: Iterable[RungRecord]) -> dict[int, tuple[datetime, datetime]]:
    """Return when the first rung of each attempt began and its last rung ended."""
    found: dict[int, tuple[datetime, datetime]] = {}
    for rung in rungs:
        if rung.finished_at is not None:
            end, attempt = rung.finished_at, rung.attempt or 0
            begin = end - _lasted(rung.seconds)
            first, last = found.get(attempt, (begin, end))
            found[attempt] = min(first, begin), max(last, end)
    return found


def searched_s(rungs: Iterable[RungRecord]) -> float:
    """Return the seconds of search in all attempts, which `budget.seconds` limits."""
    return sum((last - first).total_seconds() for first, last in spans_of(rungs).values())


def _usage(name: str, loads: Sequence[WorkerRecord], rungs: Sequence[RungRecord]) -> Usage:
    train_s = sum(rung.train_s or 0 for rung in rungs)
    generate_s = sum(rung.generate_s or 0 for rung in rungs)
    code_s = sum(rung.code_s or 0 for rung in rungs)
    busy_s = sum(rung.seconds or 0 for rung in rungs)
    trained = sum(rung.train_tokens or 0 for rung in rungs)
    generated = sum((rung.input_tokens or 0) + (rung.output_tokens or 0) for rung in rungs)
    numbers = loads[0].num_parameters or 0
    return Usage(
        name,
        sum(load.load_s or 0 for load in loads),
        train_s,
        generate_s,
        code_s,
        max(0.0, busy_s - train_s - generate_s - code_s),
        max(0.0, _there_s(loads, rungs) - busy_s),
        trained,
        generated,
        2.0 * numbers * (2 * trained + generated),
    )


def _there_s(loads: Sequence[WorkerRecord], rungs: Sequence[RungRecord]) -> float:
    """Return the seconds from each attempt's first load to its last rung."""
    starts = sorted(load.started_at for load in loads if load.started_at is not None)
    ends: dict[int, datetime] = {}
    for rung in rungs:
        if rung.finished_at is not None:
            attempt = rung.attempt or 0
            ends[attempt] = max(rung.finished_at, ends.get(attempt, rung.finished_at))
    seconds, before = 0.0, None
    for _, last in sorted(ends.items()):
        own = [start for start in starts if start < last and (before is None or start > before)]
        if own:
            seconds += (last - own[0]).total_seconds()
        before = last
    return seconds
