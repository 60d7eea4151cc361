"""A search on base models of few bits, from run to certified programs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.fleet.session import ray_session
from kilobit.evaluators.ledger.ledger import Ledger
from tests.conftest import REPOSITORY
from tests.support.rows import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = str(REPOSITORY / "examples" / "tiny" / "pretrained")


def test_models_of_few_bits_go_from_a_sweep_to_certified_programs(
    write_sweep: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    base = {"path": MODEL, "regime": "pretrained"}
    kinds: tuple[Any, ...] = ("nf4", "int8")
    models = [{**base, "name": kind, "quantization": kind} for kind in kinds]
    fast = {"rank": [1], "target_modules": [["v_proj"]], "steps": [4], "batch_size": 2}
    path = write_sweep(
        base_models=models,
        families={
            "prompt": {"candidates": 2, "demonstrations": [0, 1]},
            "lora": {"candidates": 1, **fast},
            "lora_xs": {"candidates": 1, **fast},
        },
        rungs={"examples": 6, "train_steps": 4, "count": 1},
    )

    def said(*words: str) -> tuple[int, str]:
        status = launch.main([*words])
        shown = capsys.readouterr()
        return status, " ".join(f"{shown.out} {shown.err}".split())

    status, shown = said("run", str(path), "--dry-run")
    assert status == 0, shown
    with ray_session():
        status, shown = said("run", str(path), "--out", str(out))
        assert status == 0, shown
        status, shown = said("verify", str(out))
        assert status == 0, shown
        status, shown = said("certify", str(out))
        assert status == 0, shown
        for kind in kinds:
            place = next((out / "programs").glob(f"{kind}-*"))
            assert "bitsandbytes==" in (place / "requirements.txt").read_text("utf-8")
            status, shown = said("verify", str(place), "--model", MODEL)
            assert status == 0, shown
            assert "predictions equal the recorded ones" in shown
        # The sweep is the run's own; what stands in it now is another machine.
        about = out / "run.json"
        changed = about.read_text("utf-8").replace('"quantization": "nf4"', '"quantization": null')
        assert changed != about.read_text("utf-8")
        about.write_text(changed, "utf-8")
        status, shown = said("resume", str(out), "budget.candidates=9")
        assert status != 0
        assert "quantisation" in shown
    ledger = Ledger(out / "ledger")
    verified = rows_of(ledger, "verifications")
    assert {row["model"] for row in rows_of(ledger, "candidates")} == {*kinds}
    certified = rows_of(ledger, "certificates")
    assert len(certified) >= 2
    assert all(row["error"] is None and row["lower"] is not None for row in certified)
    # In float32 on a CPU every prediction is the same.
    assert all(row["verified"] and row["num_equal"] == row["num_examples"] for row in verified)
    parts = {row["model"]: json.loads(row["parts"]) for row in rows_of(ledger, "workers")}
    assert parts["nf4"]["weights"] == parts["int8"]["weights"]
    assert parts["nf4"]["quantisation"] != parts["int8"]["quantisation"]
