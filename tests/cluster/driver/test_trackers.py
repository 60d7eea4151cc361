"""Trackers are told of every result; whatever goes wrong with one holds nobody up."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kilobit.cluster.driver.trackers import Tracking, TrialView, finishing, make_trackers
from kilobit.cluster.messages import RungReply
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.candidate import Candidate
from kilobit.search.records import RungRecord
from kilobit.search.settings import InputError
from tests.support.driver.searches import a_run

Write = Callable[..., Path]
CANDIDATE = Candidate(task="t", model="small")


def trial(name: str = "1") -> Any:
    return SimpleNamespace(trial_id=name, config={"candidate": CANDIDATE.canonical()})


def result(rung: int, **changes: Any) -> dict[str, Any]:
    about = {"score": 0.5, "payload_bits": 80, "program_bits": 900} | changes
    record = RungRecord(candidate=CANDIDATE.id, rung=rung, num_examples=6, **about)
    return {"reply": RungReply(record, (record,)), "training_iteration": 9}


class Inner:
    """What Ray has as a callback, taking notes."""

    def __init__(self, fails_at: str = "") -> None:
        self.notes: list[Any] = []
        self._fails_at = fails_at

    def __getattr__(self, name: str) -> Any:
        def note(*args: Any, **_: Any) -> None:
            if name == self._fails_at:
                raise ConnectionError("no server at http://127.0.0.1:9\nbecause")
            self.notes.append((name, *args))

        return note


def tracking(inner: Inner, told: list[str], folder: Path | None = None) -> Tracking:
    return Tracking("fake", lambda: inner, {"small": "pretrained"}, folder, "run", told.append)


def tell(one: Tracking) -> None:
    one.setup()
    one.on_trial_result(1, [], trial(), result(0))
    # A worker that was lost is no result.
    one.on_trial_result(2, [], trial(), {"lost": "w", "rung": 1})
    one.on_trial_result(3, [], trial(), result(1, score=None, error="Traceback"))
    one.on_trial_complete(4, [], trial())
    one.on_trial_complete(4, [], trial("never seen"))
    one.finish()


def test_each_candidate_is_begun_told_of_and_ended() -> None:
    inner, told = Inner(), list[str]()
    tell(tracking(inner, told))
    names = [note[0] for note in inner.notes]
    results = ["log_trial_result", "log_trial_result"]
    assert names == ["setup", "log_trial_start", *results, "log_trial_end", "on_experiment_end"]
    subject = inner.notes[1][1]
    assert str(subject) == f"small-{CANDIDATE.id}"
    about = {"model": "small", "regime": "pretrained", "family": "prompt", "task": "t"}
    assert subject.config == about | {"candidate": CANDIDATE.id}
    assert inner.notes[2][3] == {
        "score": 0.5,
        "program_bits": 900,
        "payload_bits": 80,
        "num_examples": 6,
        "rung": 0,
        "failed": 0,
        "training_iteration": 1,
    }
    # A failed candidate has no score.
    assert "score" not in inner.notes[3][3]
    assert inner.notes[3][3]["failed"] == 1
    assert told == []


@pytest.mark.parametrize("at", ["setup", "log_trial_start", "log_trial_result", "log_trial_end"])
def test_a_tracker_that_fails_is_warned_of_once(at: str, caplog: pytest.LogCaptureFixture) -> None:
    inner, told = Inner(at), list[str]()
    tell(tracking(inner, told))
    text = "tracker fake failed and gets no more results, the search continues: no server at http://127"
    assert len(told) == 1
    assert told[0].startswith(text)
    assert at not in [note[0] for note in inner.notes]
    assert "on_experiment_end" not in [note[0] for note in inner.notes]


def test_a_tracker_that_hangs_holds_nobody_up() -> None:
    inner, told, go_on = Inner(), list[str](), threading.Event()
    inner.log_trial_start = lambda _: go_on.wait(60)
    one = tracking(inner, told)
    began = time.monotonic()
    one.setup()
    one.on_trial_result(1, [], trial(), result(0))
    one.finish(timeout_s=0.05)
    assert time.monotonic() - began < 10
    assert told == ["tracker fake did not take all results within 0.05 s; the ledger has them"]
    go_on.set()


def test_a_server_that_is_down_is_warned_of(write_sweep: Write, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    trackers = [{"kind": "mlflow", "tracking_uri": "http://127.0.0.1:9"}]
    run, told = a_run(tmp_path, load_sweep(write_sweep(trackers=trackers))), list[str]()
    (one,) = make_trackers(run, told.append)
    one._regimes = {"small": "pretrained"}
    tell(one)
    assert len(told) == 1
    assert told[0].startswith(
        "tracker mlflow failed and gets no more results, the search continues: "
    )
    assert "127.0.0.1" in told[0]


def test_a_search_that_did_not_begin_has_nothing_to_finish() -> None:
    with finishing([tracking(Inner(), [])]):
        pass


def test_who_is_interrupted_does_not_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilobit.cluster.driver.trackers._HURRIED_S", 0.05)
    inner, told, go_on = Inner(), list[str](), threading.Event()
    inner.log_trial_start = lambda _: go_on.wait(60)
    one = tracking(inner, told)
    began = time.monotonic()
    one.setup()
    one.on_trial_result(1, [], trial(), result(0))
    with pytest.raises(KeyboardInterrupt), finishing([one]):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 10
    assert "within 0.05 s" in told[0]
    go_on.set()


def test_a_subject_has_a_folder_of_its_own(tmp_path: Path) -> None:
    about = {"model": "small", "candidate": "abc"}
    one = TrialView("7", about, tmp_path, "run")
    one.init_local_path()
    assert (tmp_path / "small-abc-7").is_dir()
    nowhere = TrialView("7", about, None, "run")
    nowhere.init_local_path()
    assert nowhere.local_path is None


def test_event_files_need_a_disk(write_sweep: Write) -> None:
    sweep = load_sweep(write_sweep(trackers=[{"kind": "tensorboard"}]))
    run = a_run(StoredPath("s3:", "bucket", "run"), sweep)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"trackers\.0\.folder: the run is in object storage"):
        make_trackers(run, print)
