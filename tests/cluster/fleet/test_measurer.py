"""A measurer loads each base model once, refuses another one, and measures it bare."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.fleet.measurer import Measurer
from kilobit.cluster.runs.fronts import RunFront
from kilobit.evaluators.battery.config import Battery
from kilobit.evaluators.model import base_model
from kilobit.search.records import RungRecord
from kilobit.search.settings import InputError
from tests.support.cli.finished import CANDIDATES, RUNGS, finished_run

BATTERY = Battery.model_validate(
    {
        "tasks": [{"task": {"kind": "miniature", "name": "translation"}, "examples": 4}],
        "perplexity": None,
        "game": None,
        "safety": None,
        "harness": [{"task": "no_such_task", "include": "."}],
    }
)


def test_a_bare_model_is_measured_and_another_refused(
    write_sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(write_sweep(rungs=RUNGS), tmp_path)
    points = RunFront(run).points
    loaded: list[str] = []
    load = base_model.load

    def counted(config: Any, folder: Path) -> Any:
        loaded.append(config.label)
        return load(config, folder)

    monkeypatch.setattr(base_model, "load", counted)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    measurer = Measurer(run.path, points, BATTERY, tmp_path)
    measured, missing = measurer.rows("llama", None)
    assert [(one.item, one.better) for one in measured] == [("translation", "higher")]
    assert len(measured[0].found) == 4
    assert missing.keys() == {"no_such_task"}
    assert measurer.rows("llama", None) == (measured, missing)
    assert loaded == ["llama"]
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    measurer.close()
    assert "HF_HUB_OFFLINE" not in os.environ

    part = f"{CANDIDATES[0].id}-r0"
    (record,) = run.ledger.read_part(RungRecord, part) or ()
    run.ledger.write(RungRecord, part, [replace(record, base_digest="other")])
    measurer = Measurer(run.path, points, BATTERY, tmp_path)
    with pytest.raises(InputError, match=r"base model llama: it has the digest .* with other"):
        measurer.rows("llama", None)
    measurer.close()
