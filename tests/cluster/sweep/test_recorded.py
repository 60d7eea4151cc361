import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.sweep.recorded import proposer_of, recorded_sweep
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.search.space import ModelFree

Write = Callable[..., Path]


@pytest.fixture
def settings(write_sweep: Write) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(load_sweep(write_sweep()).model_dump_json())
    return found


def test_a_sweep_of_this_version_is_what_was_recorded(settings: dict[str, Any]) -> None:
    assert json.loads(recorded_sweep(settings).model_dump_json()) == settings


def test_what_could_not_be_set_has_the_value_of_then(settings: dict[str, Any]) -> None:
    del settings["program_batch_size"], settings["model_free"]
    assert recorded_sweep(settings).program_batch_size == 4
    assert recorded_sweep(settings).model_free == ModelFree(constants=0, copy_input=False)
    for family in filter(None, settings["families"].values()):
        del family["chat"], family["turns"]
    families = recorded_sweep(settings).families.named().values()
    assert [(family.chat, family.turns) for family in families] == [((False,), False)] * 2
    removed = {**settings, "proposer": {"kind": "descent"}, "budget": {"candidates": 3}}
    assert recorded_sweep(removed).proposer.kind == "evolution"
    assert proposer_of(removed) == "descent"


def test_both_factors_of_an_old_run_learn_at_one_rate(write_sweep: Write) -> None:
    families = {"lora": {"candidates": 1}, "lora_fa": {"candidates": 1}}
    settings = json.loads(load_sweep(write_sweep(families=families)).model_dump_json())
    assert settings["families"]["lora"].pop("ratio", 0) is None
    old = recorded_sweep(settings)
    assert old.families.named()["lora"].rate_ratio("lora") == 1.0
    settings["families"]["lora"]["ratio"] = None
    assert recorded_sweep(settings).families.named()["lora"].rate_ratio("lora") == 10.0


@pytest.mark.parametrize("damaged", [None, [], "x", {}, {"task": 1}, {"task": {"kind": "flores"}}])
def test_a_damaged_sweep_is_an_error(damaged: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        recorded_sweep(damaged)


def test_an_old_run_keeps_its_drawn_order(write_sweep: Write) -> None:
    task = {"kind": "jsonl", "name": "t", "data": "d.jsonl", "metric": "exact_match"}
    settings = json.loads(load_sweep(write_sweep(task=task)).model_dump_json())
    assert recorded_sweep(settings).task.balance is True
    del settings["task"]["balance"]
    assert recorded_sweep(settings).task.balance is False
