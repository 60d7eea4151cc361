from collections.abc import Callable
from pathlib import Path

import pytest

from kilobit import launch

Write = Callable[..., Path]


def test_a_kind_is_named_once(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep(trackers=[{"kind": "mlflow"}, {"kind": "mlflow", "experiment": "other"}])
    assert launch.main(["run", str(path), "--dry-run"]) == 2
    assert "trackers: two have kind 'mlflow': give each kind once" in capsys.readouterr().err
