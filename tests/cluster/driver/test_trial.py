import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from kilobit.cluster.driver.trial import RungTrial
from kilobit.cluster.driver.tune import RecordedScheduler, StopRequest
from kilobit.cluster.messages import RungReply
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.fencing import SupersededError
from tests.support.driver.searches import ONE, RECORD, a_run, asha, recorder_of
from tests.support.rows import rows_of


@pytest.fixture
def run(write_sweep: Callable[..., Path], tmp_path: Path) -> RunFolder:
    return a_run(tmp_path, asha(load_sweep(write_sweep())))


def test_a_worker_that_can_not_write_is_asked_again_and_then_the_run_stops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: RunFolder
) -> None:
    trial, asked = object.__new__(RungTrial), []
    config = {
        "candidate": ONE.canonical(),
        "worker": "w",
        "rungs": [(0, 1, 1)],
        "first_rung": 0,
        "placement": None,
    }
    faults: list[Exception] = []

    class Worker:
        run_rung: Any

    def get(_: object) -> RungReply:
        asked.append(1)
        if faults:
            error = ray.exceptions.RayTaskError("run_rung", "traceback", faults[0])
            raise error.as_instanceof_cause()
        return RungReply(RECORD, (RECORD,))

    worker = Worker()
    worker.run_rung = type("Method", (), {"remote": staticmethod(lambda *_: None)})
    monkeypatch.setattr(ray, "get_actor", lambda _: worker)
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs, []))
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
    stop_request = StopRequest(None)
    assert (
        RecordedScheduler(recorder_of(run), stop_request).on_trial_result(None, None, result)
        == "STOP"
    )
    assert stop_request.reason == "superseded by attempt 2"
    # No row says that the candidate failed.
    assert rows_of(run.ledger, "rungs") == []
