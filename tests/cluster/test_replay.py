"""Resuming decides nothing anew: what the ledger says is what goes on."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.check import Plan
from cluster.replay import Replayed, replay
from cluster.tune_adapter import Recorder
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
    ledger: Ledger,
    candidate: Candidate,
    rung: int,
    decision: str | None,
    order: int = 0,
    *,
    score: float = 0.5,
    at: int = 0,
) -> None:
    part = f"{candidate.id}-r{rung}"
    row: dict[str, Any] = {"candidate": candidate.id, "rung": rung}
    ledger.write("rungs", part, [{**row, "score": score, "program_bits": 900, "payload_bits": 80}])
    if decision:
        decided = {"decision": decision, "decided_at": START + timedelta(seconds=at)}
        ledger.write("decisions", part, [{**row, **decided, "order": order}])


def state_of(ledger: Ledger, plan: Plan, halving: Halving, length: str = "payload") -> Replayed:
    return replay(ledger, plan.candidates, halving, length)


def test_who_ended_is_not_tried_again_and_the_others_go_on(plan: Plan, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    a, b, c, d = plan.candidates
    record(ledger, a, 0, "promote", 0)
    record(ledger, a, 1, "finish", 2)
    record(ledger, b, 0, "promote", 1)
    state = state_of(ledger, plan, Halving(num_rungs=2, eta=2))
    assert state.next_rung == {b.id: 1, c.id: 0, d.id: 0}
    assert (state.undecided, state.order) == ([], 3)


def test_what_was_finished_and_not_decided_is_decided_first_in_the_order_of_the_plan(
    plan: Plan, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path, 1)
    a, b, c, _ = plan.candidates
    record(ledger, c, 0, None, score=0.9)
    record(ledger, a, 0, "promote", 0, score=0.8)
    record(ledger, b, 0, None, score=0.1)
    record(ledger, a, 1, None)
    halving = Halving(num_rungs=2, eta=2)
    state = state_of(ledger, plan, halving)
    assert [(r["candidate"], r["rung"]) for r in state.undecided] == [
        (a.id, 1),
        (b.id, 0),
        (c.id, 0),
    ]
    models = dict.fromkeys(state.next_rung, "m")
    recorder = Recorder(halving, ledger, models, "payload", lambda *_: None, state.order)
    for row in state.undecided:
        state.take(recorder.decide(row))
    rows = sorted(ledger.rows("decisions"), key=lambda row: row["order"])
    assert [(r["candidate"], r["decision"]) for r in rows] == [
        (a.id, "promote"),
        (a.id, "finish"),
        (b.id, "stop"),
        (c.id, "promote"),
    ]
    assert state.next_rung == {c.id: 1, plan.candidates[3].id: 0}
    # A row that comes again, from a trial that was repeated, is no new decision.
    recorder.decide(state.undecided[0])
    assert sorted(row["order"] for row in ledger.rows("decisions")) == [0, 1, 2, 3]
    assert state_of(ledger, plan, Halving(num_rungs=2, eta=2)).next_rung == state.next_rung


def test_decisions_are_replayed_by_their_number_not_by_the_clock(
    plan: Plan, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path, 1)
    # The names of their parts are in the other order.
    a, b = sorted(plan.candidates[:2], key=lambda candidate: candidate.id, reverse=True)
    # The machine's clock was set back between the two.
    record(ledger, a, 0, "promote", 0, at=1000, score=0.5)
    record(ledger, b, 0, "stop", 1, at=0, score=0.5)
    halving = Halving(num_rungs=2, eta=2)
    state_of(ledger, plan, halving)
    decision = halving.report("new", model="m", rung=0, score=0.5, bits=80)
    assert decision.compared_with == (a.id, b.id)


def test_a_recorded_stop_stands_even_where_the_rule_would_now_say_otherwise(
    plan: Plan, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path, 1)
    a = plan.candidates[0]
    record(ledger, a, 0, "stop")
    halving = Halving(num_rungs=2, eta=2)
    assert a.id not in state_of(ledger, plan, halving).next_rung
    # Its result still counts among the rivals of those that follow.
    after = halving.report("new", model="m", rung=0, score=0.4, bits=80)
    assert after.compared_with == (a.id,)


def test_a_decision_whose_rung_was_lost_is_made_anew(plan: Plan, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    a, b, *_ = plan.candidates
    record(ledger, a, 0, "stop", 0)
    record(ledger, b, 0, "promote", 1)
    ledger.part("rungs", f"{a.id}-r0").unlink()
    state = state_of(ledger, plan, Halving(num_rungs=2, eta=2))
    assert (state.next_rung[a.id], state.next_rung[b.id], state.order) == (0, 1, 2)


def test_the_length_that_the_sweep_names_is_the_one_that_is_replayed(
    plan: Plan, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path, 1)
    record(ledger, plan.candidates[0], 0, "promote")
    compared = []
    for length in ("program", "payload"):
        halving = Halving(num_rungs=2, eta=2)
        state_of(ledger, plan, halving, length)
        compared.append(halving.report("n", model="m", rung=0, score=0.4, bits=100).compared_with)
    # 900 program bits are no rival of 100, 80 payload bits are.
    assert compared == [(), (plan.candidates[0].id,)]
