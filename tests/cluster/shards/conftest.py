"""A Ray session, callers that are rank 0 of a group, and a model whose heads fit four ranks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import Olmo3Config, Olmo3ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from kilobit.cluster.fleet.session import ray_session
from tests.conftest import _tokenizer
from tests.support.shards.residents import Caller


@pytest.fixture(scope="package")
def session() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture
def make_caller(session: None) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a process that is rank 0 of a group."""
    callers = []

    def make(*args: Any) -> Any:
        actor_class: Any = ray.remote(Caller)
        callers.append(actor_class.options(num_cpus=0).remote(*args))
        return callers[-1]

    yield make
    for caller in callers:
        ray.kill(caller)


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with norms within heads, tied embeddings and four heads each."""
    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer = _tokenizer(bos=False, pad=True)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        # Larger than they are drawn, so that what a layer does can be seen in the logits.
        parameter.data *= 2.0 if parameter.ndim > 1 else 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def olmo3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model whose plan gathers outputs and splits whole inputs."""
    folder = tmp_path_factory.mktemp("olmo3")
    tokenizer = _tokenizer(bos=False, pad=True)
    torch.manual_seed(0)
    config = Olmo3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        layer_types=["full_attention", "full_attention"],
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    Olmo3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
