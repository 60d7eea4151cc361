"""Resuming proposes and decides nothing anew: what the ledger says is what goes on."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kilobit.cluster.driver.replay import replay
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.proposers.proposer import ReplayError
from kilobit.search.schedulers.asha import Asha
from kilobit.search.schedulers.scheduler import Decision
from kilobit.search.task import Task
from tests.support.driver.searches import a_recorder, a_run, a_search, asha, rung_record, write_rung
from tests.support.rows import rows_of, write_rows


@pytest.fixture
def sweep(write_sweep: Callable[..., Path]) -> Sweep:
    return asha(load_sweep(write_sweep()))


@pytest.fixture
def task(sweep: Sweep) -> Task:
    return load_task(sweep.task, Path())


@pytest.fixture
def run(sweep: Sweep, tmp_path: Path) -> RunFolder:
    return a_run(tmp_path, sweep)


@pytest.fixture
def four(task: Task, sweep: Sweep) -> list[Candidate]:
    label = sweep.base_models[0].label
    return [
        Candidate(task=task.name, model=label, prompt=Prompt(instruction=text)) for text in "abcd"
    ]


def test_who_ended_is_not_tried_again_and_the_others_go_on(
    run: RunFolder, task: Task, four: list[Candidate]
) -> None:
    search, _ = a_search(run.sweep, four)
    recorder = a_recorder(run, task, search)
    a, b, c, d = four
    for candidate in four[:3]:
        assert recorder.propose(candidate.model) == candidate
    last = run.sweep.rungs.count - 1
    for record in (rung_record(a, 0, 0.9), rung_record(a, last, 0.9), rung_record(b, 0, 0.1)):
        write_rung(run.ledger, record)
        recorder.decide(record)
    again, proposer = a_search(run.sweep, four)
    state = replay(run.ledger, again)
    assert state.next_rung == {c.id: 0}
    assert (state.undecided, state.order, state.position) == ([], 3, 3)
    assert list(again.running) == [c.id]
    assert again.num_proposed == 3
    found = again.propose(d.model)
    assert found is not None
    assert found.candidate == d
    seen = [(o.candidate, o.rung, o.last, o.finished) for o in proposer.seen]
    assert seen == [(a.id, 0, False, False), (a.id, last, True, True), (b.id, 0, True, False)]


def test_what_was_finished_and_not_decided_is_decided_first_in_the_order_of_the_proposals(
    run: RunFolder, task: Task, four: list[Candidate]
) -> None:
    search, _ = a_search(run.sweep, four)
    recorder = a_recorder(run, task, search)
    a, b, c, _ = (recorder.propose(four[0].model) for _ in four)
    assert a is not None
    assert b is not None
    assert c is not None
    first = rung_record(a, 0, 0.8)
    write_rung(run.ledger, first)
    recorder.decide(first)
    for record in (rung_record(c, 0, 0.9), rung_record(b, 0, 0.1), rung_record(a, 1, 0.8)):
        write_rung(run.ledger, record)
    again, _ = a_search(run.sweep, four)
    state = replay(run.ledger, again)
    found = [(record.candidate, record.rung) for record in state.undecided]
    assert found == [(a.id, 1), (b.id, 0), (c.id, 0)]
    recorder = a_recorder(run, task, again, state)
    for record in state.undecided:
        state.take(recorder.decide(record))
    rows = sorted(rows_of(run.ledger, "decisions"), key=lambda row: row["order"])
    assert [row["candidate"] for row in rows] == [a.id, a.id, b.id, c.id]
    assert [row["order"] for row in rows] == [0, 1, 2, 3]
    # A record that comes again, from a trial that was repeated, is no new decision.
    recorder.decide(state.undecided[0])
    assert len(rows_of(run.ledger, "decisions")) == 4
    third, _ = a_search(run.sweep, four)
    assert replay(run.ledger, third).next_rung == state.next_rung


def test_proposals_and_decisions_are_replayed_by_their_numbers_not_by_the_clock(
    run: RunFolder, four: list[Candidate]
) -> None:
    a, b, *_ = sorted(four, key=lambda candidate: candidate.id, reverse=True)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for position, (candidate, after) in enumerate(((a, 0), (b, 1))):
        about = {"candidate": candidate.id, "model": candidate.model, "position": position}
        write_rows(run.ledger, "candidates", candidate.id, [about | {"after": after}])
    # The machine's clock was set back between the two.
    for order, candidate in enumerate((a, b)):
        write_rung(run.ledger, rung_record(candidate, 0))
        at = start - timedelta(hours=order)
        row = {"candidate": candidate.id, "rung": 0, "decision": "stop", "decided_at": at}
        write_rows(run.ledger, "decisions", f"{candidate.id}-r0", [row | {"order": order}])
    search, proposer = a_search(run.sweep, [a, b])
    replay(run.ledger, search)
    assert [o.candidate for o in proposer.seen] == [a.id, b.id]


def test_a_recorded_stop_stands_and_still_counts_among_the_rivals(
    run: RunFolder, task: Task, four: list[Candidate]
) -> None:
    a, b = four[:2]
    about = {"candidate": a.id, "model": a.model, "position": 0, "after": 0}
    write_rows(run.ledger, "candidates", a.id, [about])
    write_rung(run.ledger, rung_record(a, 0))
    # The rule would let the first of all go on.
    decision = {"candidate": a.id, "rung": 0, "decision": "stop", "order": 0}
    write_rows(run.ledger, "decisions", f"{a.id}-r0", [decision])
    search, _ = a_search(run.sweep, four)
    state = replay(run.ledger, search)
    assert state.next_rung == {}
    recorder = a_recorder(run, task, search, state)
    assert recorder.propose(b.model) == b
    assert recorder.decide(rung_record(b, 0, 0.4)).compared_with == (a.id,)


def test_a_decision_whose_rung_was_lost_is_made_anew(
    run: RunFolder, task: Task, four: list[Candidate]
) -> None:
    search, _ = a_search(run.sweep, four)
    recorder = a_recorder(run, task, search)
    a, b = four[:2]
    for candidate, score in ((a, 0.5), (b, 0.9)):
        recorder.propose(candidate.model)
        write_rung(run.ledger, rung_record(candidate, 0, score))
        recorder.decide(rung_record(candidate, 0, score))
    run.ledger.part("rungs", f"{a.id}-r0").unlink()
    again, _ = a_search(run.sweep, four)
    state = replay(run.ledger, again)
    assert (state.next_rung, state.order) == ({a.id: 0, b.id: 1}, 2)


def test_a_decision_that_was_lost_is_known_from_what_came_after_it(
    run: RunFolder, task: Task, four: list[Candidate]
) -> None:
    search, proposer = a_search(run.sweep, four)
    recorder = a_recorder(run, task, search)
    a, b, c = four[:3]
    for candidate in (a, b, c):
        recorder.propose(candidate.model)
    for record in (rung_record(a, 0, 0.5), rung_record(b, 0, 0.6), rung_record(c, 0, 0.7)):
        write_rung(run.ledger, record)
        recorder.decide(record)
    for record in (rung_record(a, 1, 0.5), rung_record(c, 1, 0.6)):
        write_rung(run.ledger, record)
    recorder.decide(rung_record(a, 1, 0.5))
    # Of one candidate there is a later decision, of the other only a later rung.
    run.ledger.part("decisions", f"{a.id}-r0").unlink()
    run.ledger.part("decisions", f"{c.id}-r0").unlink()
    again, replayed = a_search(run.sweep, four)
    state = replay(run.ledger, again)
    assert state.next_rung == {b.id: 1, c.id: 1}
    assert [(record.candidate, record.rung) for record in state.undecided] == [(c.id, 1)]
    # In the order in which they were made, which a proposer may depend on.
    assert replayed.seen == proposer.seen


def test_a_rung_of_who_was_stopped_before_it_is_not_decided(
    run: RunFolder, task: Task, four: list[Candidate]
) -> None:
    search, _ = a_search(run.sweep, four)
    recorder = a_recorder(run, task, search)
    a = four[0]
    recorder.propose(a.model)
    for record in (rung_record(a, 0), rung_record(a, 1)):
        write_rung(run.ledger, record)
    decision = {"candidate": a.id, "rung": 0, "decision": "stop", "order": 0}
    write_rows(run.ledger, "decisions", f"{a.id}-r0", [decision])
    state = replay(run.ledger, a_search(run.sweep, four)[0])
    assert (state.next_rung, state.undecided) == ({}, [])


def test_another_proposal_than_the_recorded_one_is_an_error(
    run: RunFolder, task: Task, four: list[Candidate]
) -> None:
    search, _ = a_search(run.sweep, four)
    a_recorder(run, task, search).propose(four[0].model)
    other, _ = a_search(run.sweep, four[1:])
    with pytest.raises(ReplayError, match=f"{four[0].id} of .* is not proposed again"):
        replay(run.ledger, other)


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(
    run: RunFolder, task: Task, four: list[Candidate]
) -> None:
    search, _ = a_search(run.sweep, four, limit=1)
    recorder = a_recorder(run, task, search)
    assert recorder.propose(four[0].model) == four[0]
    assert search.is_full
    assert recorder.propose(four[0].model) is None
    again, _ = a_search(run.sweep, four, limit=2)
    recorder = a_recorder(run, task, again)
    assert recorder.propose(four[0].model) == four[1]
    assert recorder.propose(four[0].model) is None


def test_what_was_promoted_for_later_is_still_the_last_after_a_restart(
    run: RunFolder, task: Task, four: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asha, "_why_later", lambda _, result: "x" if result.score == 0.9 else "")
    monkeypatch.setattr(Asha, "_judge", lambda *_: (True, "all go on", ()))
    search, _ = a_search(run.sweep, four)
    recorder = a_recorder(run, task, search)
    a, b, c, d = four
    for candidate in four:
        recorder.propose(candidate.model)
    for record in (rung_record(b, 0, 0.9), rung_record(a, 0, 0.9), rung_record(c, 0, 0.5)):
        write_rung(run.ledger, record)
        recorder.decide(record)
    rows = rows_of(run.ledger, "decisions")
    assert {row["candidate"]: row["later"] for row in rows} == {
        b.id: True,
        a.id: True,
        c.id: False,
    }
    again, _ = a_search(run.sweep, four)
    state = replay(run.ledger, again)
    assert list(state.later) == [b.id, a.id]
    assert a_recorder(run, task, again, state).pending(state) == [c, d, b, a]
    state.take(Decision(b.id, 1, "promote", "it has learned"))
    assert list(state.later) == [a.id]
