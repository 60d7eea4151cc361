"""What the run can't do anything about stops it: no candidate is blamed and none is begun."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.messages import Worker
from cluster.trial import RungTrial
from cluster.tune_adapter import FOLD_EVERY, Brake, HalvingScheduler, QueueSearcher, Recorder
from evaluators.fence import SupersededError, claim_file
from evaluators.ledger import Ledger, write_whole
from search.candidate import Candidate
from search.halving import Halving
from search.rungs import Rung

ONE = Candidate(task="none", model="m")
ROW = {"candidate": ONE.id, "rung": 0, "score": 0.5, "payload_bits": 8}


def scheduler(ledger: Ledger, brake: Brake) -> HalvingScheduler:
    halving = Halving(num_rungs=2, eta=2)
    recorder = Recorder(halving, ledger, {ONE.id: "m"}, "payload", lambda *_: None)
    return HalvingScheduler(recorder, brake)


def test_a_decision_that_can_not_be_written_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger, brake = Ledger(tmp_path, 1), Brake(None)
    rule = scheduler(ledger, brake)
    queue = [(ONE, 0)]
    searcher = QueueSearcher(queue, [Worker("w", "m")], [Rung(0, 1, 1)], str(tmp_path), 1, brake)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert rule.on_trial_result(None, None, dict(ROW)) == "STOP"
    assert brake.reason is not None
    assert "No space left on device" in brake.reason
    assert searcher.suggest("t") == QueueSearcher.FINISHED
    assert ledger.rows("decisions") == []
    # What comes in after that is still recorded where it can be, but nobody goes on.
    assert rule.on_trial_result(None, None, {**ROW}) == "STOP"
    assert [(r["decision"], r["order"]) for r in ledger.rows("decisions")] == [("promote", 0)]


def test_a_newer_attempt_stops_the_run(tmp_path: Path) -> None:
    ledger, brake = Ledger(tmp_path, 1), Brake(None)
    write_whole(claim_file(tmp_path, 2), b"{}")
    assert scheduler(ledger, brake).on_trial_result(None, None, dict(ROW)) == "STOP"
    assert brake.reason is not None
    assert "superseded by attempt 2" in brake.reason


def test_a_worker_that_can_not_write_is_asked_again_and_then_the_run_stops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trial, asked = object.__new__(RungTrial), []
    config = {"candidate": ONE.canonical(), "worker": "w", "rungs": [(0, 1, 1)], "first_rung": 0}
    faults: list[Exception] = []

    class Worker:
        run_rung: Any

    def get(_: object) -> dict[str, Any]:
        asked.append(1)
        if faults:
            error = ray.exceptions.RayTaskError("run_rung", "traceback", faults[0])
            raise error.as_instanceof_cause()
        return dict(ROW)

    worker = Worker()
    worker.run_rung = type("Method", (), {"remote": staticmethod(lambda *_: None)})
    monkeypatch.setattr(ray, "get_actor", lambda _: worker)
    monkeypatch.setattr(ray, "get", get)
    for fault, tries, message in (
        (None, 1, None),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "No space left on device"),
        (SupersededError("superseded by attempt 2"), 1, "superseded by attempt 2"),
    ):
        faults[:] = [fault] if fault else []
        asked.clear()
        trial.setup({**config, "run_folder": str(tmp_path), "attempt": 1})
        result = trial.step()
        assert len(asked) == tries
        assert message is None or message in result["halt"]
    brake = Brake(None)
    assert scheduler(Ledger(tmp_path, 1), brake).on_trial_result(None, None, result) == "STOP"
    assert brake.reason == "superseded by attempt 2"
    # No row says that the candidate failed.
    assert Ledger(tmp_path).rows("rungs") == []


def test_many_decisions_are_folded_into_few_files(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 1)
    names = [f"c{number}" for number in range(2 * FOLD_EVERY + 3)]
    halving = Halving(num_rungs=2, eta=2)
    recorder = Recorder(halving, ledger, dict.fromkeys(names, "m"), "payload", lambda *_: None)
    for name in names:
        recorder.decide({**ROW, "candidate": name})
    assert len(list((tmp_path / "decisions").iterdir())) == 2 + 3
    rows = sorted(ledger.rows("decisions"), key=lambda row: row["order"])
    assert [(row["candidate"], row["order"]) for row in rows] == [
        (name, number) for number, name in enumerate(names)
    ]
