"""The contract in one process, fingerprints, and what can't be laid out."""

from pathlib import Path

import pytest
import torch

from kilobit.cluster.shards.load import device_of, layout_of
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.model.base_model import ALONE, load, unchanged
from kilobit.evaluators.model.machine import fingerprint
from tests.support.models import config


def test_low_rank_update_alone_is_that_of_a_changed_weight() -> None:
    x, down, up = torch.randn(3, 5, 8), torch.randn(3, 2, 8), torch.randn(3, 6, 2)
    found = ALONE.low_rank("any", x, down, up)
    expected = torch.stack([torch.nn.functional.linear(x[i], up[i] @ down[i]) for i in range(3)])
    torch.testing.assert_close(found, expected)
    assert ALONE.part_of_output("any", up[..., 0]) is not None
    assert torch.equal(ALONE.part_of_output("any", up[..., 0]), up[..., 0])
    assert float(ALONE.sum(torch.tensor(2.5))) == 2.5
    assert (ALONE.rank, ALONE.world_size, ALONE.splits_rows) == (0, 1, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fingerprint_notices_a_flipped_bit_a_swap_and_a_moved_tensor(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(7, 5, dtype=dtype), torch.nn.Linear(7, 5, dtype=dtype)
    )
    before = fingerprint(model)
    assert fingerprint(model) == before
    weight = model[0].weight.data
    integers = weight.view(torch.int32 if dtype == torch.float32 else torch.int16)
    for bit in range(8 * weight.element_size() - 1):
        integers[2, 3] ^= 1 << bit
        assert fingerprint(model) != before
        integers[2, 3] ^= 1 << bit
    weight[1, [0, 1]] = weight[1, [1, 0]]
    assert fingerprint(model) != before
    weight[1, [0, 1]] = weight[1, [1, 0]]
    assert fingerprint(model) == before
    model[0].weight, model[1].weight = model[1].weight, model[0].weight
    assert fingerprint(model) != before


def test_model_in_one_process_tells_whether_it_changed(model_folders: dict[str, Path]) -> None:
    frozen = load(config(model_folders["llama"]), Path())
    assert unchanged(frozen)
    frozen.model.model.norm.weight.data[3] += 1e-3
    assert not unchanged(frozen)


@pytest.mark.parametrize(
    ("architecture", "world_size", "layout"),
    [
        ("llama", 1, "one"),
        ("llama", 2, "tensor"),
        ("qwen2", 2, "tensor"),
        ("llama", 4, "zero3"),
        ("gpt2", 2, "zero3"),
    ],
)
def test_layout_is_tensor_where_the_plan_fits(
    model_folders: dict[str, Path], architecture: str, world_size: int, layout: str
) -> None:
    shards = ShardsConfig(world_size=world_size)
    assert layout_of(config(model_folders[architecture]), Path(), shards) == layout


@pytest.mark.parametrize(
    ("architecture", "world_size", "message"),
    [
        ("gpt2", 2, "GPT2LMHeadModel has no tensor parallel plan; use layout `zero3`"),
        ("llama", 4, "num_key_value_heads = 2 of LlamaForCausalLM can't be split over 4 ranks"),
        ("llama", 3, "num_attention_heads = 4 of LlamaForCausalLM can't be split over 3 ranks"),
    ],
)
def test_what_tensor_parallelism_cannot_do_is_refused(
    model_folders: dict[str, Path], architecture: str, world_size: int, message: str
) -> None:
    shards = ShardsConfig(world_size=world_size, layout="tensor")
    with pytest.raises(ValueError, match=message):
        layout_of(config(model_folders[architecture]), Path(), shards)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"world_size": 2, "layout": "one"}, "layout `one` has one rank, but `world_size` is 2"),
        ({"layout": "tensor"}, "needs a `world_size` of at least 2"),
        ({"world_size": 2, "layout": "tensor", "offload": {}}, "has no `offload`"),
        ({"offload": {"device": "nvme"}}, "`nvme_path` belongs to device `nvme`"),
        ({"offload": {"nvme_path": "x"}}, "`nvme_path` belongs to device `nvme`"),
        ({"timeout_s": 0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ShardsConfig.model_validate(settings)


def test_one_named_gpu_is_no_place_for_ranks(model_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="device cuda:1 is one GPU"):
        device_of(config(model_folders["llama"], device="cuda:1"))
