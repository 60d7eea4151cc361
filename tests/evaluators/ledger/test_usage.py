"""What workers did with their time adds up."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kilobit.evaluators.ledger.usage import searched_s, spans_of, usage_of
from kilobit.search.records import RungRecord, WorkerRecord

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def load(worker: str, started: float) -> WorkerRecord:
    return WorkerRecord(
        worker=worker, model="m", load_s=2.0, num_parameters=10, started_at=at(started)
    )


def rung(worker: str, finished: float, **more: Any) -> RungRecord:
    about = {"worker": worker, "attempt": 1, "finished_at": at(finished), "seconds": 10.0}
    times = {"train_s": 4.0, "generate_s": 3.0, "code_s": 1.0}
    tokens = {"train_tokens": 100, "input_tokens": 30, "output_tokens": 20}
    return RungRecord(candidate="c", rung=0, num_examples=4, **about | times | tokens | more)


def test_time_is_loading_computing_coding_the_rest_and_waiting() -> None:
    rungs = [rung("a", 15), rung("a", 40), rung("b", 12, train_s=None, train_tokens=None)]
    a, b = usage_of([load("a", 0), load("b", 1)], rungs)
    assert (a.load_s, a.train_s, a.generate_s, a.code_s, a.other_s) == (2, 8, 6, 2, 4)
    assert a.idle_s == pytest.approx(20)
    assert a.compute_share == pytest.approx(14 / 40)
    assert (a.trained, a.generated, a.flops) == (200, 100, 2 * 10 * 500)
    assert (b.train_s, b.other_s, b.idle_s) == (0, 6, 1)


def test_the_time_between_two_attempts_is_nobodys() -> None:
    loads = [load("a", 0), load("a", 5), load("a", 1000)]
    (a,) = usage_of(loads, [rung("a", 20), rung("a", 1015, attempt=2)])
    assert a.load_s == 6
    assert a.idle_s == pytest.approx(20 + 15 - 20)


def test_a_worker_without_a_rung_has_only_loaded() -> None:
    (a,) = usage_of([load("a", 0)], [rung("b", 20)])
    assert (a.load_s, a.idle_s, a.compute_share) == (2, 0, 0)


def test_the_seconds_of_search_are_those_between_rungs_of_the_same_attempt() -> None:
    # Two workers from 5 to 40, with a rest between; the next attempt comes an hour later.
    rungs = [rung("a", 15), rung("b", 20), rung("a", 40), rung("b", 3600, attempt=2)]
    rungs.append(rung("a", 0, finished_at=None))
    assert spans_of(rungs) == {1: (at(5), at(40)), 2: (at(3590), at(3600))}
    assert searched_s(rungs) == 45
    assert searched_s([]) == 0
