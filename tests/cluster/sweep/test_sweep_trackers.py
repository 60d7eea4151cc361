import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilobit import launch
from kilobit.cluster.sweep.sweep import load_sweep
from tests.conftest import REPOSITORY

Write = Callable[..., Path]


def test_the_example_of_the_page_is_one(write_sweep: Write) -> None:
    page = (REPOSITORY / "docs" / "trackers.md").read_text("utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    trackers = load_sweep(write_sweep(**yaml.safe_load(example))).trackers
    assert [tracker.kind for tracker in trackers] == ["tensorboard", "mlflow", "wandb"]


def test_a_missing_package_is_named_before_anything_starts(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilobit.cluster.sweep.sweep.find_spec", lambda name: None)
    path = write_sweep(trackers=[{"kind": "wandb", "project": "p"}])
    assert launch.main(["run", str(path), "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        "kilobit: trackers.0: kind 'wandb' needs wandb, which is not installed: pip install "
        "'kilobit[trackers]'\n"
    )


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ({"kind": "neptune"}, "trackers.0.kind must be one of 'tensorboard', 'mlflow', 'wandb'"),
        ({"kind": "wandb"}, "'trackers.0.project' is missing"),
        ({"kind": "wandb", "project": "p", "api_key": "x"}, "unknown key 'trackers.0.api_key'"),
        ({"kind": "mlflow", "tracking_uri": "http://me:sesame@host"}, "MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_keys_come_from_the_environment_alone(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], tracker: dict[str, Any], message: str
) -> None:
    assert launch.main(["run", str(write_sweep(trackers=[tracker])), "--dry-run"]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "sesame" not in shown
