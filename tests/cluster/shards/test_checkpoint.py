"""Parts that ranks read are those of what transformers loads, and no rank reads more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, conversion_mapping
from transformers.core_model_loading import Interleave, WeightConverter

from kilobit.cluster.shards.checkpoint import Checkpoint, _fill_range, _InFile, _Stored
from kilobit.cluster.shards.skeleton import registered
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.model import base_model
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import _tokenizer
from tests.support.models import ARCHITECTURES, build_model, config
from tests.support.shards.forks import Forks
from tests.support.shards.reads import CountingReader

# Norms, biases and tied heads; Conv1D; experts in one tensor, and stored one by one.
NAMES = (
    "llama", "qwen2_tied", "gpt2", "gpt_neox", "llama4", "mixtral", "qwen2_moe", "deepseek_v3",
    "qwen3_next", "mamba",
)  # fmt: skip


def bounds(number: int, rank: int, ranks: int) -> slice:
    size = -(-number // ranks)
    return slice(min(rank * size, number), min((rank + 1) * size, number))


def stored(name: str, folder: Path) -> tuple[Any, int]:
    """Save a model in several files; return its weights, and the bytes of all but its buffers."""
    about = ARCHITECTURES[name]
    values = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None} | about.values
    AutoConfig.for_model(about.kind, vocab_size=99, **values).save_pretrained(folder)
    model = base_model.random_model(BaseModelConfig(regime="r", path=folder), Path())
    for key, buffer in model.named_buffers():
        if key in model.state_dict():
            buffer.copy_(torch.rand(buffer.shape))
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return model, sum(weight.nbytes for weight in model.parameters())


def opened(folder: Path, dtype: torch.dtype) -> tuple[Any, Checkpoint]:
    _, bare = registered(BaseModelConfig(regime="r", path=folder), Path(), dtype)
    found = Checkpoint.of(bare, str(folder), {})
    assert found is not None
    return bare, found


@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_every_rank_reads_its_part_of_a_checkpoint_and_nothing_else(
    name: str, ranks: int, tmp_path: Path
) -> None:
    _, size = stored(name, tmp_path)
    whole = base_model.read_weights(str(tmp_path), {}, dtype=torch.float32)
    read = []
    for rank in range(ranks):
        _, checkpoint = opened(tmp_path, torch.float32)
        for key, weight in whole.named_parameters():
            own = bounds(weight.numel(), rank, ranks)
            found = checkpoint.part(key, own.start, own.stop)
            assert torch.equal(found, weight.detach().view(-1)[own]), key
        read.append(checkpoint.bytes_read)
    assert sum(read) == size
    # Parts of a few numbers are rounded up.
    assert max(read) <= size / ranks + 4 * len(list(whole.parameters()))


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "deepseek_v3"])
def test_experts_that_are_stored_one_by_one_are_read_one_by_one(name: str, tmp_path: Path) -> None:
    stored(name, tmp_path)
    bare, checkpoint = opened(tmp_path, torch.float32)
    fused = [key for key, weight in bare.named_parameters() if weight.ndim == 3]
    assert fused
    for key in fused:
        weight = bare.get_parameter(key)
        part = checkpoint.part(key, 0, weight.numel())
        assert checkpoint.largest_read <= part[: weight[0].numel()].nbytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss", "rwkv"])
def test_what_transformers_keeps_in_a_longer_type_is_kept_in_it(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    stored(name, tmp_path)
    whole = base_model.read_weights(str(tmp_path), {}, dtype=dtype)
    bare, checkpoint = opened(tmp_path, dtype)
    checkpoint.fill_buffers(bare)
    for key, weight in whole.named_parameters():
        found = checkpoint.part(key, 0, weight.numel())
        assert found.dtype == weight.dtype == bare.get_parameter(key).dtype, key
        assert torch.equal(found, weight.detach().view(-1)), key
    for key, buffer in whole.named_buffers():
        assert bare.get_buffer(key).dtype == buffer.dtype, key
        assert torch.equal(bare.get_buffer(key), buffer), key
    types = {tensor.dtype for tensor in (*whole.parameters(), *whole.buffers())}
    assert dtype in types


def test_what_is_not_stored_or_is_computed_is_left_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored("mixtral", tmp_path)
    _, bare = registered(BaseModelConfig(regime="r", path=tmp_path), Path(), torch.float32)
    key = "self_attn.q_proj.weight"
    woven = WeightConverter(key, key, operations=[Interleave(dim=0)])
    with monkeypatch.context() as patch:
        patch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda _: [woven])
        assert Checkpoint.of(bare, str(tmp_path), {}) is None
    # One expert is missing.
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            keys = [key for key in file.keys() if "experts.3.w2" not in key]  # noqa: SIM118
            left = {key: file.get_tensor(key) for key in keys}
        save_file(left, path)
    assert Checkpoint.of(bare, str(tmp_path), {}) is None


def test_a_range_of_arranged_tensors_is_that_of_torch(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {str(at): torch.randn(4, 6, generator=generator) for at in range(4)}
    save_file(tensors, tmp_path / "x.safetensors")
    file = safe_open(tmp_path / "x.safetensors", "pt")
    stand_ins = {
        key: _InFile(whole.shape, file, key, lambda _: None) for key, whole in tensors.items()
    }

    def arrangements(of: Any) -> list[Any]:
        one, two, three, four = (of[key] for key in tensors)
        stacked = torch.stack([one, two, three], dim=0)
        return [
            stacked,
            torch.stack([one, two], dim=-1),
            torch.cat([stacked, torch.stack([four, one, two])], dim=1),
            torch.transpose(stacked, 0, 2).contiguous(),
            torch.cat([torch.transpose(one, 0, 1), torch.transpose(two, 0, 1)], dim=-1),
            *torch.chunk(one, 3, dim=1),
            *torch.chunk(one, 3, dim=0),
            *torch.split(torch.cat([two, three]), [1, 2, 5], dim=0),
        ]

    for found, expected in zip(arrangements(stand_ins), arrangements(tensors), strict=True):
        assert isinstance(found, _Stored)
        assert found.shape == expected.shape
        flat = expected.reshape(-1)
        for start in range(len(flat) + 1):
            for end in range(start, len(flat) + 1, 5):
                out = torch.empty(end - start)
                _fill_range(found, (), start, end, out)
                assert torch.equal(out, flat[start:end]), (start, end)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("layout", ["tensor", "zero3"])
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_two_ranks_read_half_of_the_experts_each_and_never_two_at_once(
    name: str, layout: str, tmp_path: Path
) -> None:
    folder = build_model(name, _tokenizer(bos=False, pad=True), tmp_path / "model")
    base = config(folder, dtype="bfloat16")
    spread = ShardsConfig.model_validate({"world_size": 2, "layout": layout, "timeout_s": 60.0})
    sizes = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            if ".experts." in key:
                sizes[key] = file.get_tensor(key).nbytes
    assert len(sizes) >= 12
    with Forks(spread, CountingReader, base, spread) as ranks:
        assert ranks.call("digest") == base_model.load(base, Path()).digest
        read = ranks.each("bytes_read")
        largest = ranks.each("largest_read", ".experts.")
    for of_rank in read:
        assert sum(of_rank.get(key, 0) for key in sizes) == sum(sizes.values()) / 2
    for key, size in sizes.items():
        assert sum(of_rank.get(key, 0) for of_rank in read) == size
    assert max(largest) <= max(sizes.values())


@pytest.mark.timeout(300)
def test_random_experts_that_are_split_are_those_of_one_process(tmp_path: Path) -> None:
    folder = build_model("mixtral", _tokenizer(bos=False, pad=True), tmp_path / "model")
    base = config(folder, weights="random", seed=3)
    spread = ShardsConfig.model_validate({"world_size": 2, "layout": "tensor", "timeout_s": 60.0})
    with Forks(spread, CountingReader, base, spread) as ranks:
        assert ranks.call("digest") == base_model.load(base, Path()).digest
