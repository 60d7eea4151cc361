"""What the run can't do anything about stops it: no candidate is blamed and none is begun."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.tune

from kilobit.cluster.driver.tune import (
    BitsAwareScheduler,
    RecordedScheduler,
    RecordedSearcher,
    StopRequest,
)
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import Notice, PoolError, RungReply, Worker
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.fencing import claim_file
from kilobit.evaluators.ledger.ledger import write_whole
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.schedulers.asha import Asha
from tests.support.driver.searches import (
    ONE,
    RECORD,
    a_recorder,
    a_run,
    a_search,
    asha,
    recorder_of,
)
from tests.support.rows import rows_of

REPLY = RungReply(RECORD, (RECORD,))


@pytest.fixture
def run(write_sweep: Callable[..., Path], tmp_path: Path) -> RunFolder:
    return a_run(tmp_path, asha(load_sweep(write_sweep())))


def test_a_decision_that_can_not_be_written_stops_the_run(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger, stop_request, recorder = run.ledger, StopRequest(None), recorder_of(run)
    rule = RecordedScheduler(recorder, stop_request)
    workers = [Worker("w", ONE.model)]
    searcher = RecordedSearcher(recorder, [(ONE, 0)], workers, {ONE.model: 1}, stop_request)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert rule.on_trial_result(None, None, {"reply": REPLY}) == "STOP"
    assert stop_request.reason is not None
    assert "No space left on device" in stop_request.reason
    assert searcher.suggest("t") == RecordedSearcher.FINISHED
    assert rows_of(ledger, "decisions") == []
    # What comes in after that is still recorded where it can be, but nobody goes on.
    assert rule.on_trial_result(None, None, {"reply": REPLY}) == "STOP"
    assert [(r["decision"], r["order"]) for r in rows_of(ledger, "decisions")] == [("promote", 0)]


def test_a_stop_that_could_not_be_recorded_is_recorded_when_it_comes_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder, failed = recorder_of(run), replace(RECORD, score=None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            recorder.decide(failed)
    assert recorder.decide(failed).action == "stop"
    assert recorder.decide(failed).action == "stop"
    assert [r["decision"] for r in rows_of(run.ledger, "decisions")] == ["stop"]


def test_a_newer_attempt_stops_the_run(run: RunFolder) -> None:
    stop_request = StopRequest(None)
    rule = RecordedScheduler(recorder_of(run), stop_request)
    write_whole(claim_file(run.ledger.folder, 2), b"{}")
    assert rule.on_trial_result(None, None, {"reply": REPLY}) == "STOP"
    assert stop_request.reason is not None
    assert "superseded by attempt 2" in stop_request.reason


def test_a_worker_that_is_lost_is_given_up_and_its_candidates_go_to_another(
    run: RunFolder,
) -> None:
    two = Candidate(task="none", model=ONE.model, prompt=Prompt(instruction="two"))
    recorder, stop_request = recorder_of(run, (ONE, two)), StopRequest(None)
    workers = [Worker("w0", ONE.model), Worker("w1", ONE.model)]
    searcher = RecordedSearcher(
        recorder, [(ONE, 0), (two, 1)], workers, {ONE.model: 1}, stop_request
    )
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert (first["worker"], second["worker"]) == ("w0", "w1")
    lost = {"lost": "w0 died 6 times in a row", "rung": 0}
    rule = RecordedScheduler(recorder, stop_request)
    assert rule.on_trial_result(None, None, lost) == "STOP"
    searcher.on_trial_complete("a", lost)
    assert not stop_request.requested
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("b", {"rung": 1})
    again = searcher.suggest("d")
    assert (again["worker"], again["candidate"]) == ("w1", ONE.canonical())
    assert rows_of(run.ledger, "decisions") == []
    # Without any worker the run can't go on.
    searcher.on_trial_complete("d", {"lost": "w1 as well", "rung": 0})
    assert stop_request.reason == f"no worker of {ONE.model} is left: w1 as well"
    assert searcher.suggest("e") == RecordedSearcher.FINISHED


def test_a_worker_without_a_place_waits_and_its_candidates_go_to_another(run: RunFolder) -> None:
    two = Candidate(task="none", model=ONE.model, prompt=Prompt(instruction="two"))
    recorder, stop_request = recorder_of(run, (ONE, two)), StopRequest(None)
    workers = [Worker("w0", ONE.model, "a0"), Worker("w1", ONE.model, "a1")]
    here = {workers[0]}
    searcher = RecordedSearcher(
        recorder,
        [(ONE, 0), (two, 0)],
        workers,
        {ONE.model: 1},
        stop_request,
        lambda: here,
    )
    first = searcher.suggest("a")
    assert (first["worker"], first["placement"]) == ("w0", "a0")
    assert searcher.suggest("b") is None
    here.clear()
    away = {"away": "w0 lost its node", "rung": 0}
    assert RecordedScheduler(recorder, stop_request).on_trial_result(None, None, away) == "STOP"
    searcher.on_trial_complete("a", away)
    # Nobody is here, and the search is not over.
    assert searcher.suggest("c") is None
    here.add(workers[1])
    again = [searcher.suggest("d"), searcher.suggest("e")]
    assert (again[0]["worker"], again[1]) == ("w1", None)
    here.add(workers[0])
    last = searcher.suggest("f")
    assert last["worker"] == "w0"
    assert {again[0]["candidate"], last["candidate"]} == {ONE.canonical(), two.canonical()}
    searcher.on_trial_complete("d", {"rung": 1})
    here.clear()
    assert searcher.suggest("g") is None
    searcher.on_trial_complete("f", {"rung": 1})
    # Whether there is more to try is known only when somebody can try it.
    assert searcher.suggest("h") is None
    here.add(workers[1])
    assert searcher.suggest("i") == RecordedSearcher.FINISHED
    assert rows_of(run.ledger, "decisions") == []


def test_a_worker_is_told_its_candidates_before_their_trials_begin_or_go_on(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    sweep = load_sweep(write_sweep(workers={"per_model": 1, "pack": 2}))
    run, two = a_run(tmp_path, sweep), Candidate(task="none", model=ONE.model, chat=True)
    recorder, stop_request = recorder_of(run, (ONE, two)), StopRequest(None)
    told: list[Notice] = []

    def tell(worker: str, notice: Notice) -> None:
        assert worker == "w"
        told.append(notice)

    workers, ladder = [Worker("w", ONE.model)], run.sweep.rungs.ladder()
    searcher = RecordedSearcher(
        recorder, [(ONE, 0), (two, 0)], workers, {ONE.model: 2}, stop_request, None, tell
    )
    rule = RecordedScheduler(recorder, stop_request, searcher.promoted)
    searcher.suggest("a")
    assert (told[-1].expected, told[-1].more) == ({ONE.id: 0}, True)
    searcher.suggest("b")
    # There is no slot for more.
    assert (told[-1].expected, told[-1].more) == ({ONE.id: 0, two.id: 0}, False)
    assert told[-1].incumbents[0, 0] == ()
    first = replace(RECORD, left=0, num_examples=ladder[0].num_examples)
    second = replace(
        first, candidate=two.id, score=0.25, program_bits=950, gap=-0.25, against=ONE.id
    )
    together = (first, second)
    results = [{"reply": RungReply(record, together, "w")} for record in together]
    assert rule.on_trial_result(None, None, results[0]) == "CONTINUE"
    # By then every decision of the batch is made, and counts.
    assert told[-1].expected == {ONE.id: 1, two.id: 0}
    assert [one.candidate for one in told[-1].incumbents[0, 0]] == [ONE.id]
    assert [one.candidate for one in told[-1].incumbents[1, 0]] == []
    assert rule.on_trial_result(None, None, results[1]) == "STOP"
    searcher.on_trial_complete("b", results[1])
    assert (told[-1].expected, told[-1].more) == ({ONE.id: 1}, True)
    # Nothing is left to try, so the worker need not wait.
    assert searcher.suggest("c") is None
    assert (told[-1].expected, told[-1].more) == ({ONE.id: 1}, False)
    assert searcher.suggest("c") is None
    assert [notice.number for notice in told] == list(range(1, len(told) + 1))
    assert len(told) == 5


def test_a_worker_with_nothing_left_to_do_leaves_its_place_to_the_next_model(
    run: RunFolder,
) -> None:
    other = Candidate(task="none", model="other")
    models = [run.sweep.base_models[0].model_copy(update={"name": n}) for n in ("llama", "other")]
    run = replace(run, sweep=run.sweep.model_copy(update={"base_models": tuple(models)}))
    recorder, stop_request = recorder_of(run, (ONE, other)), StopRequest(None)
    workers = [Worker("w0", "llama"), Worker("v0", "other")]
    here, released = {workers[0]}, []

    def release(worker: Worker) -> bool:
        # Nothing waits for the place of the second model.
        here.discard(worker)
        released.append(worker.name)
        return worker.name == "w0"

    searcher = RecordedSearcher(
        recorder,
        [(ONE, 0), (other, 0)],
        workers,
        {"llama": 1, "other": 1},
        stop_request,
        lambda: here,
        release=release,
    )
    assert searcher.suggest("a")["worker"] == "w0"
    assert searcher.suggest("b") is None
    assert released == []
    searcher.on_trial_complete("a", {"rung": 1})
    # The search is not over: the other model waits for its worker.
    assert searcher.suggest("b") is None
    assert released == ["w0"]
    here.add(Worker("v0", "other", "ab"))
    found = searcher.suggest("c")
    assert (found["worker"], found["placement"]) == ("v0", "ab")
    searcher.on_trial_complete("c", {"rung": 1})
    assert searcher.suggest("d") == RecordedSearcher.FINISHED
    assert not stop_request.requested


def test_a_search_in_which_no_model_finds_a_place_stops(run: RunFolder) -> None:
    def nowhere() -> set[Worker]:
        raise PoolError("not enough free resources after 1 s: of b")

    stop_request, workers = StopRequest(None), [Worker("w0", ONE.model)]
    slots, recorder = {ONE.model: 1}, recorder_of(run)
    searcher = RecordedSearcher(recorder, [(ONE, 0)], workers, slots, stop_request, nowhere)
    assert searcher.suggest("a") == RecordedSearcher.FINISHED
    assert stop_request.reason == "not enough free resources after 1 s: of b"


def test_what_is_promoted_for_later_ends_its_trial_and_goes_on_when_nothing_else_is_left(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asha, "_why_later", lambda *_: "it has learned nothing")
    two, old = (
        Candidate(task="none", model=ONE.model, prompt=Prompt(instruction=text))
        for text in ("two", "old")
    )
    search, _ = a_search(run.sweep, (ONE, two))
    task, stop_request = load_task(run.sweep.task, Path()), StopRequest(None)
    recorder = a_recorder(run, task, search)
    searcher = RecordedSearcher(
        recorder,
        [(old, 1)],
        [Worker("w", ONE.model)],
        {ONE.model: 1},
        stop_request,
        later={old.id},
    )
    rule = RecordedScheduler(recorder, stop_request, searcher.promoted, searcher.promoted_for_later)

    def candidate_of(trial: str) -> tuple[str, int]:
        found = searcher.suggest(trial)
        return found["candidate"], found["first_rung"]

    assert candidate_of("a") == (ONE.canonical(), 0)
    reply = RungReply(RECORD, (RECORD,), "w")
    assert rule.on_trial_result(None, None, {"reply": reply}) == "STOP"
    assert searcher.suggest("x") is None
    searcher.on_trial_complete("a", {"reply": reply})
    assert candidate_of("b") == (two.canonical(), 0)
    searcher.on_trial_complete("b")
    # What waited already when this attempt began is before it.
    assert candidate_of("c") == (old.canonical(), 1)
    searcher.on_trial_complete("c")
    assert candidate_of("d") == (ONE.canonical(), 1)
    searcher.on_trial_complete("d")
    assert searcher.suggest("e") == RecordedSearcher.FINISHED
    (row,) = rows_of(run.ledger, "decisions")
    assert (row["decision"], row["later"]) == ("promote", True)
    assert row["reason"].endswith("; it has learned nothing")


def worse_if_long(config: dict[str, int]) -> None:
    """Report two rungs of a trainable whose longer trials are worse."""
    for _ in range(2):
        ray.tune.report({"score": 0.8 if config["bits"] == 100 else 0.3, "bits": config["bits"]})


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_scheduler_alone_stops_a_trial_of_tune_that_is_longer_and_worse(
    tmp_path: Path,
) -> None:
    scheduler = BitsAwareScheduler([100, 300], trained=True)
    tuner = ray.tune.Tuner(
        worse_if_long,
        param_space={"bits": ray.tune.grid_search([100, 200, 300])},
        tune_config=ray.tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=1),
        run_config=ray.tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    # Without one Tune begins a session of its own and does not end it.
    with ray_session():
        found = {one.config["bits"]: one.metrics["training_iteration"] for one in tuner.fit()}
    assert found == {100: 2, 200: 1, 300: 1}


def test_the_scheduler_alone_names_what_a_result_lacks() -> None:
    scheduler = BitsAwareScheduler([100], bits="size")
    trial = SimpleNamespace(trial_id="t1")
    with pytest.raises(ValueError, match="trial t1 reported no 'size'"):
        scheduler.on_trial_result(None, trial, {"score": 0.5, "training_iteration": 1})
