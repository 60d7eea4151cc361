import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import processors

from kilobit.evaluators.model.base_model import load, weights_digest
from kilobit.evaluators.model.generate import generate
from tests.conftest import ARCHITECTURES
from tests.support.models import config


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loads_frozen_and_generates(
    model_folders: dict[str, Path], architecture: str
) -> None:
    frozen = load(config(model_folders[architecture]), Path())
    assert not any(p.requires_grad for p in frozen.model.parameters())
    assert frozen.context == 256
    prompts = ["Q: Anna has 3 apples.\nA:", "In: the dog\nOut:", "Task: x"]
    generated = generate(frozen, prompts, max_new_tokens=5, stop=(), batch_size=2)
    assert len(generated.texts) == 3
    assert 1 <= generated.output_tokens <= 15
    assert frozen.digest == weights_digest(frozen.model)


def test_only_models_with_a_start_token_get_one(model_folders: dict[str, Path]) -> None:
    for architecture, bos in (("llama", True), ("gpt2", False), ("qwen2", False)):
        frozen = load(config(model_folders[architecture]), Path())
        assert frozen.special_tokens
        assert frozen.pad_with_end is (architecture == "gpt2")
        ids = frozen.tokenizer("the dog")["input_ids"]
        assert (ids[0] == frozen.tokenizer.bos_token_id) is bos
        assert frozen.tokenizer.decode(ids, skip_special_tokens=True) == "the dog"


def test_random_weights_depend_on_the_seed_alone(model_folders: dict[str, Path]) -> None:
    folder = model_folders["llama"]
    torch.manual_seed(5)
    first = load(config(folder, weights="random", seed=1), Path())
    torch.manual_seed(6)
    again = load(config(folder, weights="random", seed=1), Path())
    other = load(config(folder, weights="random", seed=2), Path())
    trained = load(config(folder), Path())
    assert first.digest == again.digest
    assert len({first.digest, other.digest, trained.digest}) == 3


def test_the_digest_sees_one_flipped_bit(model_folders: dict[str, Path]) -> None:
    frozen = load(config(model_folders["llama"]), Path())
    weight = frozen.model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight.view(torch.int32)[3, 4] ^= 1
    assert weights_digest(frozen.model) != frozen.digest


def test_a_tokenizer_that_closes_every_text_gets_no_special_tokens(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folders["llama"])
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", tokenizer.bos_token_id), ("<eos>", end)]
    )
    folder = tmp_path / "closes"
    shutil.copytree(model_folders["llama"], folder)
    tokenizer.save_pretrained(folder)
    frozen = load(config(folder), Path())
    assert frozen.tokenizer("a")["input_ids"][-1] == end
    assert not frozen.special_tokens
