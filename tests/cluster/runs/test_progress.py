"""Progress of a run, computed from rows of its ledger."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.runs.fronts import bound_text, unjudged_text
from kilobit.cluster.runs.progress import COLUMNS, ModelProgress, Progress, columns_of, progress_of
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.ledger.ledger import Following
from kilobit.evaluators.ledger.parts import TABLES
from kilobit.search.records import CandidateRecord, DecisionRecord, Record, RungRecord
from kilobit.search.schedulers.scheduler import Action

BEGAN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)


@pytest.fixture
def sweep(write_sweep: Callable[..., Path]) -> Sweep:
    """Return a sweep of at most six candidates for two base models, on 4 and then 8 examples."""
    models = [{"regime": "small", "path": "."}, {"regime": "large", "path": "."}]
    families = {"prompt": {"candidates": 3}}
    return load_sweep(write_sweep(base_models=models, families=families, targets=[0.4, 0.9]))


def candidate(
    name: str, model: str, position: int | None = 0, family: str = "prompt"
) -> CandidateRecord:
    return CandidateRecord(
        candidate=name, task="numbers", model=model, regime=model, family=family,
        position=position,
    )  # fmt: skip


def rung(name: str, index: int, score: float | None, at_s: float = 0, **more: Any) -> RungRecord:
    """Return a record at a rung that took 6 seconds and ended `at_s` after the start."""
    row: dict[str, Any] = {"candidate": name, "rung": index, "num_examples": 4 << index}
    row |= {"score": score, "program_bits": 900, "payload_bits": 80, "program": f"of {name}"}
    row |= {"worker": "w-0", "attempt": 1, "seconds": 6.0, "split": "search"}
    return RungRecord(**row | {"finished_at": BEGAN + timedelta(seconds=at_s)} | more)


def decision(name: str, what: Action, attempt: int = 1) -> DecisionRecord:
    return DecisionRecord(candidate=name, rung=0, decision=what, attempt=attempt)


class Known(Following):
    """Tables of which all records are given."""

    def __init__(self, records: list[Record]) -> None:
        self._given = records

    def records(self, kind: type[Record]) -> list[Any]:
        return [one for one in self._given if isinstance(one, kind)]


def progress(sweep: Sweep, **tables: Sequence[Record]) -> Progress:
    return progress_of(sweep, Known([one for table in tables.values() for one in table]))


def test_the_columns_that_are_read_are_columns_of_the_ledger() -> None:
    for kind, columns in COLUMNS.items():
        assert set(columns) <= set(TABLES[kind.table].names)


def test_a_run_that_has_just_begun_has_no_pace_and_no_best(sweep: Sweep) -> None:
    found = progress(sweep)
    assert (found.begun, found.ended, found.running, found.most) == (0, 0, 0, 6)
    assert [(r.num_examples, r.finished, r.failed) for r in found.rungs] == [(4, 0, 0), (8, 0, 0)]
    none = {"begun": 0, "ended": 0, "best": None, "front": 0, "unverified": 0}
    none["shortest"] = (None, None)
    assert found.models == (ModelProgress("small", **none), ModelProgress("large", **none))
    assert (found.pace, found.last, found.failures) == (None, None, ())


def test_a_result_on_more_examples_outranks_a_higher_score_on_fewer(sweep: Sweep) -> None:
    candidates = [candidate(name, "small") for name in "abc"]
    rungs = [
        rung("a", 0, 0.9),
        rung("b", 0, 0.3),
        rung("b", 1, 0.5, program_bits=800),
        rung("c", 1, 0.5, program_bits=700),
    ]
    small, large = progress(sweep, candidates=candidates, rungs=rungs).models
    assert small.best == (0.5, 700, 8)
    assert (small.begun, small.front, small.shortest) == (3, 1, (700, None))
    assert large.best is None


def test_the_length_that_the_sweep_compares_is_the_one_that_is_shown(sweep: Sweep) -> None:
    rows: dict[str, Sequence[Record]] = {
        "candidates": [candidate("a", "small")],
        "rungs": [rung("a", 0, 0.25), rung("a", 1, 0.5)],
    }
    by_payload = sweep.model_copy(update={"length": "payload"})
    assert progress(sweep, **rows).models[0].best == (0.5, 900, 8)
    assert progress(by_payload, **rows).models[0].best == (0.5, 80, 8)
    assert progress(by_payload, **rows).models[0].shortest == (80, None)


def test_net_bits_are_shown_once_the_bare_question_is_known(sweep: Sweep) -> None:
    net = sweep.model_copy(update={"length": "net"})
    assert "spec" in columns_of(net)[CandidateRecord]
    assert columns_of(sweep) == COLUMNS
    longer = {"program_bits": 1300}
    rows: dict[str, Sequence[Record]] = {
        "candidates": [
            replace(candidate("a", "small"), spec='{"model":"small","task":"numbers"}'),
            replace(candidate("b", "small"), spec='{"postprocess":["lower"],"task":"numbers"}'),
            candidate("c", "large"),
        ],
        "rungs": [
            rung("a", 0, 0.25),
            rung("b", 1, 0.5, **longer),
            rung("c", 1, 0.5, **longer),
        ],
    }
    small, large = progress(net, **rows).models
    assert (small.best, small.shortest, small.length) == ((0.5, 400, 8), (400, None), "net")
    assert (large.best, large.shortest) == ((0.5, None, 8), (None, None))
    assert progress(sweep, **rows).models[0].best == (0.5, 1300, 8)


def test_candidates_are_counted_by_how_they_ended(sweep: Sweep) -> None:
    candidates = [candidate("a", "small"), candidate("b", "small"), candidate("c", "large")]
    decisions = [decision("a", "promote"), decision("a", "finish"), decision("b", "stop")]
    found = progress(sweep, candidates=candidates, decisions=decisions)
    assert (found.begun, found.completed, found.stopped, found.running) == (3, 1, 1, 1)
    assert [(model.begun, model.ended) for model in found.models] == [(2, 2), (1, 0)]


def test_coarser_versions_are_in_no_count_of_candidates(sweep: Sweep) -> None:
    found = progress(
        sweep,
        candidates=[candidate("a", "small"), candidate("a1", "small", None)],
        rungs=[rung("a", 1, 0.5), rung("a1", 1, 0.4), rung("a1", 1, None, error="no")],
    )
    assert (found.begun, found.rungs[1].finished, found.rungs[1].failed) == (1, 1, 0)
    assert (found.coarser, found.coarser_failed, found.num_failed) == (2, 1, 1)


def test_outputs_without_a_verdict_are_counted_and_their_candidate_has_not_failed(
    sweep: Sweep,
) -> None:
    rungs = [rung("a", 0, 0.5, num_unjudged=1), rung("a", 1, 0.5, num_unjudged=2), rung("b", 0, 1)]
    found = progress(sweep, candidates=[candidate(name, "small") for name in "ab"], rungs=rungs)
    assert (found.unjudged, found.num_failed) == (3, 0)
    assert unjudged_text(found.unjudged) == [
        "not judged: 3 outputs have no verdict of the judge and no score"
    ]
    assert unjudged_text(0) == []


def test_what_is_longer_than_the_bound_is_counted_and_has_not_failed(sweep: Sweep) -> None:
    rungs = [rung("a", 0, 0.5), rung("a", 1, None, num_examples=0), rung("b", 0, None, error="no")]
    found = progress(sweep, candidates=[candidate(name, "small") for name in "ab"], rungs=rungs)
    assert (found.too_long, found.num_failed) == (1, 1)
    bounded = sweep.model_copy(update={"max_bits": 900, "length": "net"})
    assert bound_text(bounded, found.too_long) == [
        "programs of at most 900 net bits are scored; 1 candidate is longer"
    ]
    assert bound_text(bounded) == ["programs of at most 900 net bits are scored"]
    assert bound_text(sweep, 0) == []


def test_of_many_failures_the_latest_three_are_shown_by_their_last_lines(sweep: Sweep) -> None:
    rungs = [
        rung(name, 0, None, at_s, error=f"Traceback\n  somewhere\nValueError: {name}\n")
        for at_s, name in ((40, "d"), (10, "a"), (30, "c"), (20, "b"))
    ]
    found = progress(sweep, candidates=[candidate(name, "small") for name in "abcd"], rungs=rungs)
    assert found.num_failed == found.rungs[0].failed == 4
    assert found.failures == (
        ("d", "ValueError: d"),
        ("c", "ValueError: c"),
        ("b", "ValueError: b"),
    )


def test_the_pace_is_that_of_the_last_attempt(sweep: Sweep) -> None:
    rungs = [rung("a", 0, 0.1), rung("b", 0, 0.1, 3600, attempt=2)]
    rungs.append(rung("c", 0, 0.1, 3624, attempt=2))
    decisions = [decision("a", "stop"), decision("b", "stop", 2), decision("c", "promote", 2)]
    pace = progress(sweep, rungs=rungs, decisions=decisions).pace
    assert pace is not None
    # Its first rung began at 3594 s: two rungs in 30 s, and one candidate ended in that time.
    assert pace.rungs_a_minute == pytest.approx(4)
    # Four of six are left, at one every 30 s.
    assert pace.ends_at == BEGAN + timedelta(seconds=3624 + 4 * 30)
    assert pace.budget_ends_at is None


def test_the_end_is_unknown_until_a_candidate_has_ended_and_the_budget_is_known(
    sweep: Sweep,
) -> None:
    limited = sweep.model_copy(update={"budget": sweep.budget.model_copy(update={"seconds": 90.0})})
    pace = progress(limited, rungs=[rung("a", 0, 0.1, 6)]).pace
    assert pace is not None
    assert pace.ends_at is None
    assert pace.budget_ends_at == BEGAN + timedelta(seconds=90)
    # An earlier attempt has searched for 6 s of them.
    pace = progress(limited, rungs=[rung("a", 0, 0.1, 6), rung("b", 0, 0.1, 106, attempt=2)]).pace
    assert pace is not None
    assert pace.budget_ends_at == BEGAN + timedelta(seconds=100 + 84)


def test_what_needs_no_model_is_counted_beside_the_candidates_of_the_sweep(sweep: Sweep) -> None:
    candidates = [candidate("a", "small"), candidate("b", "small", family="constant")]
    ends = [decision("a", "stop"), decision("b", "finish")]
    found = progress(
        sweep,
        candidates=candidates,
        decisions=ends,
        rungs=[rung("a", 0, 0.1, 0), rung("b", 0, 0, 6)],
    )
    assert (found.begun, found.ended, found.most) == (2, 2, 7)
    assert found.pace is not None
    # Five are left at three seconds each.
    assert found.pace.ends_at == BEGAN + timedelta(seconds=6 + 5 * 6)
