"""Random weights that ranks draw in parts are those of the whole draw, and no rank takes more."""

from pathlib import Path

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
    Qwen3NextConfig,
    RwkvConfig,
)

from kilobit.cluster.shards.skeleton import draw, registered
from kilobit.evaluators.model import base_model
from kilobit.search.base_model import BaseModelConfig
from tests.support.shards.reads import Held

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
# Norms, biases and tied heads; Conv1D; experts in one tensor; numbers that no random draw gives,
# and that are computed from one another; weights made smaller in place; orthogonal ones.
CONFIGS: list[PreTrainedConfig] = [
    LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=1),
    Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8),
    Olmo3Config(**SIZES, num_key_value_heads=2),
    GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4),
    GPTNeoXConfig(**SIZES),
    MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4),
    MambaConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        rescale_prenorm_residual=True,
    ),
    RwkvConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, context_length=64),
    Qwen3NextConfig(
        **SIZES,
        **ROUTED,
        num_key_value_heads=2,
        layer_types=["linear_attention", "full_attention"],
    ),
]


def bounds(number: int, rank: int, ranks: int) -> slice:
    size = -(-number // ranks)
    return slice(min(rank * size, number), min((rank + 1) * size, number))


@pytest.mark.parametrize("made", CONFIGS, ids=lambda made: type(made).__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_in_parts_are_those_of_the_whole_draw(
    made: PreTrainedConfig, dtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
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

    with Held() as held:
        model, parts = draw(config, Path(), whole.dtype, names, keep)
    # All that is whole at once: one tensor, what it is computed from, and the vectors.
    vectors = sum(weight.nbytes for weight in whole.parameters() if weight.ndim == 1)
    buffers = sum(buffer.nbytes for buffer in whole.buffers())
    kept = sum(part.untyped_storage().nbytes() for part in parts.values())
    # Some are computed in a longer type.
    assert held.peak <= kept + vectors + buffers + 4 * (4 * largest)
    assert "whole" not in caplog.text
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
