"""One small search through the command line, watched from outside and told to real trackers."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from tests.support.driver.processes import finish, start, wait_for
from tests.support.rows import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
Write = Callable[..., Path]


@pytest.fixture
def watched(write_sweep: Write, tmp_path: Path) -> tuple[Path, str, str]:
    """Return a finished run, what it printed and what a watch of it printed."""
    pytest.importorskip("mlflow")
    trackers: list[dict[str, Any]] = [
        {"kind": "tensorboard"},
        {"kind": "mlflow", "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"},
    ]
    families = {"prompt": {"candidates": 3, "demonstrations": [0, 1]}}
    path, out = write_sweep(trackers=trackers, families=families), tmp_path / "run"
    search = start("run", str(path), "--out", str(out), "--log-level", "debug")
    wait_for((out / "run.json").exists, search)
    watch = start("status", str(out), "--watch", "0.5")
    shown = finish(search, 0)
    return out, shown, finish(watch, 0)


def test_a_search_is_watched_and_told_to_trackers(
    watched: tuple[Path, str, str], tmp_path: Path
) -> None:
    run, _, seen = watched
    rows = rows_of(Ledger(run / "ledger"), "rungs")
    scores = {(row["candidate"], row["rung"]): row["score"] for row in rows}

    lines = seen.splitlines()
    assert "locked by attempt 1" in seen
    assert any("rung 0: 3 finished" in line for line in lines)
    assert any("3 of 3 candidates ended" in line for line in lines)
    assert "not running, and nothing is left to try" in seen
    assert "\x1b" not in seen

    log = (run / "run.log").read_text()
    assert "INFO llama-0: loaded llama on" in log
    assert "DEBUG llama-0: begins " in log
    assert "tracker" not in log
    assert in_event_files(run / "tensorboard") == pytest.approx(scores)
    assert in_mlflow(f"sqlite:///{tmp_path}/mlflow.db") == {
        (c, r + 1): s for (c, r), s in scores.items()
    }


@pytest.mark.slow
def test_weights_and_biases_is_told_too(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    families = {"prompt": {"candidates": 3, "demonstrations": [0, 1]}}
    path, out = (
        write_sweep(trackers=[{"kind": "wandb", "project": "small"}], families=families),
        (tmp_path / "run"),
    )
    shown = finish(start("run", str(path), "--out", str(out)), 0)
    assert "tracker" not in shown
    offline = list((out / "wandb").glob("*/wandb/offline-run-*/*.wandb"))
    assert len(offline) == 3
    assert all(b"payload_bits" in path.read_bytes() for path in offline)


def in_event_files(folder: Path) -> dict[tuple[str, int], float]:
    """Return the scores by candidate and rung: a step is a rung, counted from 1."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.glob("*/events.out.tfevents.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            # A record: length (8 bytes), its checksum (4), the event, its checksum (4).
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                if value.tag == "ray/tune/score":
                    candidate = path.parent.name.split("-")[1]
                    found[candidate, event.step - 1] = value.simple_value
    return found


def in_mlflow(uri: str) -> dict[tuple[str, int], float]:
    """Return the scores by candidate and step."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    found = {}
    for experiment in client.search_experiments():
        for one in client.search_runs([experiment.experiment_id]):
            for metric in client.get_metric_history(one.info.run_id, "score"):
                found[one.data.params["candidate"], metric.step] = metric.value
            assert one.info.status == "FINISHED"
            assert one.data.params["regime"] == "llama"
    return found
