"""Parts that ranks read or draw are those of the whole, and no rank takes more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    Olmo3Config,
    PreTrainedConfig,
    Qwen3Config,
)

from kilobit.cluster.shards.skeleton import Checkpoint, draw, registered
from kilobit.evaluators.model import base_model
from kilobit.search.base_model import BaseModelConfig

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# Norms, biases and tied heads; Conv1D; experts in one tensor; numbers that no random draw gives.
CONFIGS: list[PreTrainedConfig] = [
    LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=1),
    Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8),
    Olmo3Config(**SIZES, num_key_value_heads=2),
    GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4),
    GPTNeoXConfig(**SIZES),
    MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4),
    MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4),
]


def bounds(number: int, rank: int, ranks: int) -> slice:
    size = -(-number // ranks)
    return slice(min(rank * size, number), min((rank + 1) * size, number))


@pytest.mark.parametrize("made", CONFIGS, ids=lambda made: type(made).__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_in_parts_are_those_of_the_whole_draw(
    made: PreTrainedConfig, dtype: str, tmp_path: Path
) -> None:
    made.save_pretrained(tmp_path)
    config = BaseModelConfig(regime="r", path=tmp_path, weights="random", seed=3, dtype=dtype)
    whole = base_model.random_model(config, Path())
    names, bare = registered(config, Path(), whole.dtype)
    state = torch.random.get_rng_state()
    largest = max(weight.numel() for weight in whole.parameters())

    def keep(_: str, tensor: Tensor) -> Tensor:
        assert tensor.numel() <= largest
        return tensor.view(-1)[bounds(tensor.numel(), 1, 3)].clone()

    model, parts = draw(config, Path(), whole.dtype, names, keep)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert parts.keys() == dict(whole.named_parameters()).keys()
    for name, weight in whole.named_parameters():
        expected = weight.detach().view(-1)[bounds(weight.numel(), 1, 3)]
        assert torch.equal(parts[name], expected), name
    # The model itself has no weights, and the buffers of the whole one.
    assert all(weight.is_meta for weight in (*model.parameters(), *bare.parameters()))
    for name, buffer in whole.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
        assert torch.equal(bare.get_buffer(name), buffer), name


@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("made", CONFIGS[:5], ids=lambda made: type(made).__name__)
def test_every_rank_reads_its_part_of_a_checkpoint_and_little_else(
    made: PreTrainedConfig, ranks: int, tmp_path: Path
) -> None:
    made.save_pretrained(tmp_path)
    config = BaseModelConfig(regime="r", path=tmp_path)
    whole = base_model.random_model(config, Path())
    # Several files, with an index.
    whole.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    _, bare = registered(config, Path(), torch.float32)
    read = []
    for rank in range(ranks):
        checkpoint = Checkpoint.of(bare, str(tmp_path), {})
        assert checkpoint is not None
        for name, weight in whole.named_parameters():
            own = bounds(weight.numel(), rank, ranks)
            found = checkpoint.part(name, own.start, own.stop)
            assert torch.equal(found, weight.detach().view(-1)[own]), name
        read.append(checkpoint.bytes_read)
    # Slices of whole rows: up to two rows of a weight are read beside the own part.
    rows = sum(2 * weight[0].nbytes for weight in whole.parameters())
    size = sum(weight.nbytes for weight in whole.parameters())
    assert max(read) <= size / ranks + rows
    assert size <= sum(read) <= size + ranks * rows


def test_a_checkpoint_that_is_changed_on_the_way_is_left_to_transformers(tmp_path: Path) -> None:
    def checkpoint(made: PreTrainedConfig, **options: Any) -> Checkpoint | None:
        made.save_pretrained(tmp_path)
        config = BaseModelConfig(regime="r", path=tmp_path, **options)
        base_model.random_model(config, Path()).save_pretrained(tmp_path)
        _, bare = registered(config, Path(), getattr(torch, config.dtype))
        return Checkpoint.of(bare, str(tmp_path), {})

    # Experts are stored one by one, and are one tensor in the model.
    assert checkpoint(CONFIGS[5]) is None
    halves = checkpoint(CONFIGS[0], dtype="float16")
    assert halves is not None
    assert halves.part("model.norm.weight", 3, 5).dtype == torch.float16
