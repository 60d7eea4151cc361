"""Trials in the driver: what they tell Tune of replies, of faults and of workers that are away."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from kilobit.cluster.driver import trial as trials_module
from kilobit.cluster.driver.trial import Message, RungTrial, Trials
from kilobit.cluster.driver.tune import RecordedScheduler, StopRequest
from kilobit.cluster.messages import RungReply
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.fencing import SupersededError
from tests.support.driver.searches import ONE, RECORD, a_run, asha, recorder_of
from tests.support.rows import rows_of

REPLY = RungReply(RECORD, (RECORD,))
CONFIG = {"candidate": ONE.canonical(), "worker": "w", "first_rung": 0, "placement": None}


@pytest.fixture
def run(write_sweep: Callable[..., Path], tmp_path: Path) -> RunFolder:
    return a_run(tmp_path, asha(load_sweep(write_sweep())))


class Cluster:
    """Ray as trials see it: workers by name, and replies that are there or not."""

    def __init__(self) -> None:
        self.faults: list[Exception] = []
        self.asked: list[int] = []
        self.replied, self.placed, self.gone = True, True, False
        self.cancelled: list[int] = []

    def get_actor(self, name: str) -> Any:
        if self.gone:
            raise ValueError(f"no actor {name}")
        method = type("Method", (), {"remote": staticmethod(self._ask)})
        return type("Worker", (), {"run_rung": method})

    def _ask(self, *_: object) -> int:
        self.asked.append(len(self.asked))
        return self.asked[-1]

    def wait(self, refs: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return (refs[:1], refs[1:]) if self.replied else ([], refs)

    def get(self, _: int) -> RungReply:
        if self.faults:
            error = ray.exceptions.RayTaskError("run_rung", str(self.faults[0]), self.faults[0])
            raise error.as_instanceof_cause()
        return REPLY


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    one = Cluster()
    for name in ("get_actor", "wait", "get"):
        monkeypatch.setattr(ray, name, getattr(one, name))
    monkeypatch.setattr(ray, "cancel", one.cancelled.append)
    monkeypatch.setattr(trials_module, "is_placed", lambda _: one.placed)
    return one


class Told:
    """Tune's side: begins a trial's next rung until a message is not a reply, and stops it then."""

    def __init__(self, trials: Trials, rungs: int = 1) -> None:
        self.trials, self.rungs = trials, rungs
        self.messages: list[Message] = []
        self.errors: list[Exception] = []
        self.stopped: list[RungTrial] = []

    def add(self, config: Message) -> RungTrial:
        return self.trials.add_actor(
            RungTrial, {"config": config}, on_start=self.train, on_stop=self.stopped.append
        )

    def train(self, trial: RungTrial) -> None:
        self.trials.schedule_actor_task(
            trial, "train", on_result=self.take, on_error=lambda _, error: self.errors.append(error)
        )

    def take(self, trial: RungTrial, message: Message) -> None:
        self.messages.append(message)
        if "reply" in message and len(self.messages) < self.rungs:
            self.train(trial)
        else:
            assert self.trials.remove_actor(trial)

    def until_quiet(self) -> None:
        while self.trials.next(0):
            pass


def test_a_trial_asks_for_rung_after_rung_and_is_gone_once_it_was_removed(
    run: RunFolder, cluster: Cluster
) -> None:
    trials = Trials(run.sweep.rungs.ladder(), run.ledger)
    told = Told(trials, rungs=2)
    trial = told.add(CONFIG)
    assert (trials.num_pending_actors, trials.num_live_actors) == (1, 0)
    assert not trials.is_actor_started(trial)
    cluster.replied = False
    told.until_quiet()
    assert (trials.num_pending_actors, trials.num_live_actors, trials.num_actor_tasks) == (0, 1, 1)
    assert trials.is_actor_started(trial)
    cluster.replied = True
    told.until_quiet()
    assert [m["training_iteration"] for m in told.messages] == [1, 2]
    assert all(m["reply"] is REPLY for m in told.messages)
    assert told.stopped == [trial]
    assert (trials.num_total_actors, trials.num_actor_tasks, trials.errors) == (0, 0, [])


def test_workers_are_looked_after_while_no_reply_comes(run: RunFolder, cluster: Cluster) -> None:
    looks: list[None] = []
    told = Told(Trials(run.sweep.rungs.ladder(), run.ledger, lambda: looks.append(None)))
    cluster.replied = False
    told.add(CONFIG)
    told.until_quiet()
    before = len(looks)
    told.until_quiet()
    assert len(looks) == before + 1


def test_a_trial_that_is_removed_before_it_began_never_begins(
    run: RunFolder, cluster: Cluster
) -> None:
    told = Told(Trials(run.sweep.rungs.ladder(), run.ledger))
    assert not told.trials.remove_actor(told.add(CONFIG))
    told.until_quiet()
    assert (cluster.asked, told.messages, told.stopped) == ([], [], [])


def test_a_worker_that_can_not_write_is_asked_again_and_then_the_run_stops(
    run: RunFolder, cluster: Cluster
) -> None:
    told = Told(Trials(run.sweep.rungs.ladder(), run.ledger))
    for fault, tries, message in (
        (None, 1, None),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "No space left on device"),
        (SupersededError("superseded by attempt 2"), 1, "superseded by attempt 2"),
    ):
        cluster.faults[:] = [fault] if fault else []
        cluster.asked.clear()
        told.add(CONFIG)
        told.until_quiet()
        assert len(cluster.asked) == tries
        assert message is None or message in told.messages[-1]["halt"]
    stop_request = StopRequest(None)
    rule = RecordedScheduler(recorder_of(run), stop_request)
    assert rule.on_trial_result(None, None, told.messages[-1]) == "STOP"
    assert stop_request.reason == "superseded by attempt 2"
    # No row says that the candidate failed.
    assert rows_of(run.ledger, "rungs") == []


def test_a_fault_of_the_candidate_is_a_row(run: RunFolder, cluster: Cluster) -> None:
    told = Told(Trials(run.sweep.rungs.ladder(), run.ledger))
    cluster.faults[:] = [RuntimeError("no such module: qqq_proj")]
    told.add(CONFIG)
    told.until_quiet()
    [row] = rows_of(run.ledger, "rungs")
    assert "no such module: qqq_proj" in row["error"]
    assert told.messages[0]["reply"].record.candidate == ONE.id == row["candidate"]


def test_a_worker_without_a_name_is_lost(run: RunFolder, cluster: Cluster) -> None:
    told = Told(Trials(run.sweep.rungs.ladder(), run.ledger))
    cluster.gone = True
    told.add(CONFIG | {"first_rung": 1})
    told.until_quiet()
    assert [(m["lost"], m["rung"]) for m in told.messages] == [("w is gone", 1)]


def test_a_worker_without_resources_is_away_after_a_while(
    run: RunFolder, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials_module, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(trials_module, "_AWAY_S", 0.2)
    told = Told(Trials(run.sweep.rungs.ladder(), run.ledger))
    cluster.replied = False
    told.add(CONFIG | {"placement": "0a"})
    told.add(CONFIG)
    time.sleep(0.3)
    told.until_quiet()
    assert told.messages == []
    cluster.placed = False
    time.sleep(0.3)
    told.trials.next(0)
    told.until_quiet()
    assert [(m["away"], m["rung"]) for m in told.messages] == [("w lost its node", 0)]
    assert cluster.cancelled == [0]
    # One whose worker can't lose its resources waits on.
    assert told.trials.num_actor_tasks == 1


def test_one_trial_with_an_error_of_ours_ends_no_other(
    run: RunFolder, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(Trials(run.sweep.rungs.ladder(), run.ledger))
    with monkeypatch.context() as patch:
        patch.setattr(RungTrial, "begin", lambda _: 1 / 0)
        told.add(CONFIG)
        told.until_quiet()
    told.add(CONFIG)
    told.until_quiet()
    assert [type(error) for error in told.errors] == [ZeroDivisionError]
    assert told.trials.errors == told.errors
    assert [m["reply"] for m in told.messages] == [REPLY]
