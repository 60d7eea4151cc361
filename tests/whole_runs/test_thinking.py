"""A search with a model that thinks and with the same model told not to, from run to front."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from tests.support.driver.processes import finish, start
from tests.support.rows import rows_of
from tests.support.thinker import make_thinker, write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_search_with_thinking_is_verified_and_shows_its_front(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    model, out = str(make_thinker(tmp_path / "model")), tmp_path / "run"
    models = [
        {"regime": "thinks", "path": model, "thinking_tokens": 40},
        {"regime": "silent", "path": model, "enable_thinking": False},
    ]
    prompts = {"candidates": 3, "demonstrations": [0], "chat": [True]}
    path = write_sweep(
        task=write_task(tmp_path),
        base_models=models,
        families={"prompt": prompts | {"postprocess": [[], ["last_word"]]}},
        proposer={"kind": "grid"},
        rungs={"examples": 4, "train_steps": 2, "count": 1},
        targets=[0.9],
    )
    checked = finish(start("run", str(path), "--dry-run"), 0)
    assert "thinks thinks in its chat template" in " ".join(checked.split())
    finish(start("run", str(path), "--out", str(out)), 0)
    ledger = Ledger(out / "ledger")
    candidates = {row["candidate"]: row for row in rows_of(ledger, "candidates")}
    # Without the chat template there is no thinking: that is the first candidate of each model.
    chats = {name for name, row in candidates.items() if json.loads(row["spec"]).get("chat")}
    rows = rows_of(ledger, "rungs")
    found = [
        (candidates[row["candidate"]]["regime"], row["score"])
        for row in rows
        if row["candidate"] in chats
    ]
    assert sorted(found) == [("silent", 0.0)] * 2 + [("thinks", 1.0)] * 2
    said = [row for row in rows_of(ledger, "predictions") if row["candidate"] in chats]
    assert len(said) == 16
    assert all(row["output"].strip().isdecimal() for row in said)
    shown = finish(start("verify", str(out)), 0)
    verified = {row["score"] for row in rows_of(ledger, "verifications") if row["verified"]}
    assert 1.0 in verified, shown
    assert all(row["verified"] for row in rows_of(ledger, "verifications"))
    shortest = min(row["program_bits"] for row in rows if row["score"] == 1.0)
    assert f" {shortest} " in finish(start("front", str(out)), 0)
