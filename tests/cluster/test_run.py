"""Resuming decides nothing anew: what the ledger says is what goes on."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.check import Plan
from cluster.run import _pending
from evaluators.ledger import Ledger
from evaluators.tasks import load_task
from search.candidate import Candidate, Prompt
from search.halving import Halving
from search.sweep import load_sweep

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def plan(write_sweep: Callable[..., Path]) -> Plan:
    task = load_task(load_sweep(write_sweep()).task, Path())
    candidates = tuple(
        Candidate(task=task.name, model="m", prompt=Prompt(instruction=text)) for text in "abcd"
    )
    return Plan(task, candidates, ())


def record(
    ledger: Ledger, candidate: Candidate, rung: int, decision: str | None, at: int, bits: int = 80
) -> None:
    part = f"{candidate.id}-r{rung}"
    row: dict[str, Any] = {"candidate": candidate.id, "rung": rung}
    ledger.write("rungs", part, [{**row, "score": 0.5, "program_bits": 900, "payload_bits": bits}])
    if decision:
        decided = {"decision": decision, "decided_at": START + timedelta(seconds=at)}
        ledger.write("decisions", part, [{**row, **decided}])


def test_who_ended_is_not_tried_again_and_the_others_go_on(plan: Plan, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    a, b, c, d = plan.candidates
    record(ledger, a, 0, "promote", 0)
    record(ledger, a, 1, "finish", 3)
    record(ledger, b, 0, "promote", 1)
    # c was scored, but the run ended before anything was decided; d never began.
    record(ledger, c, 0, None, 2)
    assert _pending(ledger, plan, Halving(num_rungs=2, eta=2), "payload") == [
        (b, 1),
        (c, 0),
        (d, 0),
    ]


def test_a_recorded_stop_stands_even_where_the_rule_would_now_say_otherwise(
    plan: Plan, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    a = plan.candidates[0]
    record(ledger, a, 0, "stop", 0)
    halving = Halving(num_rungs=2, eta=2)
    assert a not in [candidate for candidate, _ in _pending(ledger, plan, halving, "payload")]
    # Its result still counts among the rivals of those that follow.
    after = halving.report("new", model="m", rung=0, score=0.4, bits=80)
    assert after.compared_with == (a.id,)


def test_the_length_that_the_sweep_names_is_the_one_that_is_replayed(
    plan: Plan, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    record(ledger, plan.candidates[0], 0, "promote", 0)
    compared = []
    for length in ("program", "payload"):
        halving = Halving(num_rungs=2, eta=2)
        _pending(ledger, plan, halving, length)
        compared.append(halving.report("n", model="m", rung=0, score=0.4, bits=100).compared_with)
    # 900 program bits are no rival of 100, 80 payload bits are.
    assert compared == [(), (plan.candidates[0].id,)]
