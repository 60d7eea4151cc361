from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kilobit.cluster.sweep.workers import OffloadConfig, ShardsConfig, Workers


@pytest.mark.parametrize(
    ("settings", "slots"),
    [({}, 1), ({"gpus": 0.5}, 8), ({"pack": 3}, 3), ({"gpus": 1, "pack": 1}, 1)],
)
def test_a_worker_packs_eight_candidates_on_a_gpu_if_nothing_is_said(
    settings: dict[str, Any], slots: int
) -> None:
    assert Workers.model_validate(settings).slots == slots


def test_a_search_begins_with_all_workers_or_with_the_named_fewest() -> None:
    assert Workers(per_model=4).least == 4
    assert Workers(per_model=4, min_per_model=1).least == 1
    assert Workers(per_model=4, min_per_model=4).least == 4
    with pytest.raises(ValidationError, match="min_per_model 5 is more than per_model 4"):
        Workers(per_model=4, min_per_model=5)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (
            {"layout": "one", "world_size": 2},
            "layout `one` has one rank, but `world_size` is 2",
        ),
        ({"layout": "tensor"}, "layout `tensor` needs a `world_size` of at least 2"),
        (
            {"layout": "tensor", "world_size": 2, "offload": {}},
            "layout `tensor` has no `offload`; use `zero3`",
        ),
        ({"layout": "one", "offload": {}}, "layout `one` has no `offload`"),
    ],
)
def test_a_layout_that_its_ranks_can_not_have_is_refused(
    shards: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ShardsConfig.model_validate(shards)


@pytest.mark.parametrize(
    "shards",
    [
        {"layout": "one"},
        {"layout": "tensor", "world_size": 2},
        {"layout": "zero3"},
        {"layout": "zero3", "world_size": 3, "offload": {}},
        {"layout": "auto", "world_size": 8, "offload": {"device": "nvme", "nvme_path": "/local"}},
    ],
)
def test_a_layout_that_its_ranks_can_have_is_taken(shards: dict[str, Any]) -> None:
    assert Workers.model_validate({"shards": shards}).shards.layout == shards["layout"]


def test_a_drive_is_named_if_and_only_if_weights_are_kept_on_it() -> None:
    assert OffloadConfig(device="nvme", nvme_path=Path("/local")).nvme_path == Path("/local")
    for settings in ({"device": "nvme"}, {"nvme_path": "/local"}):
        with pytest.raises(ValidationError, match="`nvme_path` belongs to device `nvme`"):
            OffloadConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("per_model", 0),
        ("min_per_model", 0),
        ("threads", 0),
        ("threads", 1025),
        ("cpus", 0),
        ("gpus", -1),
        ("wait_s", -0.5),
        ("batch_size", 0),
        ("pack", 0),
        ("pack", 257),
    ],
)
def test_an_amount_out_of_its_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=rf"(?s)^1 validation error for Workers\n{field}\n"):
        Workers.model_validate({field: value})
