"""Bundles that are requested, and which of them are there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.driver import trial
from kilobit.cluster.driver.trial import is_placed
from kilobit.cluster.fleet import pool
from kilobit.cluster.fleet.pool import placed, request_placement, workers_of
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.sweep.workers import ShardsConfig


def test_every_rank_has_a_bundle_and_an_empty_one_a_little_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def placement_group(bundles: list[dict[str, float]], strategy: str) -> None:
        asked.append((bundles, strategy))

    monkeypatch.setattr(pool, "placement_group", placement_group)
    request_placement(ShardsConfig(world_size=2, gpus_per_rank=1, cpus_per_rank=3))
    request_placement(ShardsConfig(world_size=2, gpus_per_rank=0, cpus_per_rank=0))
    assert asked == [([{"CPU": 3, "GPU": 1}] * 2, "PACK"), ([{"CPU": 0.001}] * 2, "PACK")]


def test_only_groups_that_ray_has_created_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {"ab" * 18: "CREATED", "cd" * 18: "RESCHEDULING", "ef" * 18: "PENDING"}

    def table(group: Any = None) -> dict[str, Any]:
        if group is None:
            return {name: {"state": state} for name, state in ids.items()}
        return {"state": ids.get(group.id.hex())}

    for module in (pool, trial):
        monkeypatch.setattr(module, "placement_group_table", table)
    assert placed() == {"ab" * 18}
    assert [is_placed(name) for name in ids] == [True, False, False]
    assert not is_placed("01" * 18)


def test_workers_are_named_by_model(write_sweep: Callable[..., Path]) -> None:
    sweep = load_sweep(write_sweep(workers={"per_model": 2}))
    assert [(w.name, w.model) for w in workers_of(sweep)] == [
        ("llama-0", "llama"),
        ("llama-1", "llama"),
    ]
