from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kilobit.cluster.sweep.workers import ModelWorkers, OffloadConfig, ShardsConfig, Workers


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
        ("gpus", 1.5),
        ("resources", {"GPU": 1.0}),
        ("resources", {"disk": 0.0}),
        ("node_labels", {"rack": "!a"}),
        ("wait_s", -0.5),
        ("batch_size", 0),
        ("pack", 0),
        ("pack", 257),
    ],
)
def test_an_amount_out_of_its_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(
        ValidationError, match=rf"(?s)^1 validation error for Workers\n{field}[.\n]"
    ):
        Workers.model_validate({field: value})


def test_a_model_has_its_own_settings_over_those_of_all() -> None:
    common = Workers(per_model=3, min_per_model=2, gpus=1, threads=4)
    assert common.over(None) == common
    shards = ShardsConfig(world_size=8)
    own = common.over(ModelWorkers(gpus=2, shards=shards, node_labels={"rack": "a"}))
    assert (own.gpus, own.shards, own.node_labels) == (2, shards, {"rack": "a"})
    assert (own.per_model, own.least, own.threads) == (3, 2, 4)
    # Fewer workers than all others need to begin are enough for a model that has no more.
    assert common.over(ModelWorkers(per_model=1)).least == 1
    assert common.over(ModelWorkers(per_model=5)).least == 2


def test_a_rank_reserves_a_share_of_a_gpu_or_whole_ones() -> None:
    for gpus in (0, 0.25, 1, 2.0):
        assert Workers(gpus=gpus).gpus == gpus
    for settings in ({"gpus": 1.5}, {"shards": {"gpus_per_rank": 2.5}}):
        with pytest.raises(ValidationError, match="a share of one GPU below 1, or a whole number"):
            Workers.model_validate(settings)
        with pytest.raises(ValidationError, match="a share of one GPU below 1, or a whole number"):
            ModelWorkers.model_validate(settings)
