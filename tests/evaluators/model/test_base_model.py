import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import processors

from kilobit.evaluators.model.base_model import load, weights_digest
from kilobit.evaluators.model.generate import asked, generate
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import ARCHITECTURES


def config(folder: Path, **changes: object) -> BaseModelConfig:
    return BaseModelConfig.model_validate({"regime": "r", "path": str(folder)} | changes)


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batches_of_one_and_of_eight_give_the_same_texts(
    model_folders: dict[str, Path], architecture: str
) -> None:
    frozen = load(config(model_folders[architecture]), Path())
    prompts = [f"Q: Ben has {i} {'big ' * (i % 5)}coins.\nA:" for i in range(16)]
    results = [
        generate(frozen, prompts, max_new_tokens=8, stop=("\n",), batch_size=size)
        for size in (1, 8)
    ]
    assert results[0].texts == results[1].texts
    assert results[0].input_tokens == results[1].input_tokens


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


def test_a_generation_ends_at_the_stop_string(model_folders: dict[str, Path]) -> None:
    frozen = load(config(model_folders["llama"]), Path())
    prompts = ["Q: Anna has 3 apples.\nA:"]
    free = generate(frozen, prompts, max_new_tokens=40, stop=(), batch_size=1)
    assert free.output_tokens == 40
    # Whatever this model says, its tenth character is where we ask it to stop.
    mark = free.texts[0][10:12]
    stopped = generate(frozen, prompts, max_new_tokens=40, stop=(mark,), batch_size=1)
    assert mark in stopped.texts[0]
    assert stopped.output_tokens < 20
    assert free.texts[0].startswith(stopped.texts[0])


def test_rows_that_ended_do_not_change_the_others(model_folders: dict[str, Path]) -> None:
    frozen = load(config(model_folders["llama"]), Path())
    prompts = [f"Q: Ben has {i} coins.\nA:" for i in range(12)]
    free = generate(frozen, prompts, max_new_tokens=20, stop=(), batch_size=12)
    mark = free.texts[0][5:7]
    stopped = generate(frozen, prompts, max_new_tokens=20, stop=(mark,), batch_size=12)
    for whole, part in zip(free.texts, stopped.texts, strict=True):
        assert whole.startswith(part)
        assert (mark in part) is (mark in whole)


def test_a_prompt_beyond_the_context_is_refused(model_folders: dict[str, Path]) -> None:
    frozen = load(config(model_folders["llama"]), Path())
    with pytest.raises(ValueError, match=r"do not fit into the model's context of 256 tokens"):
        generate(frozen, ["dog " * 300], max_new_tokens=5, stop=(), batch_size=1)


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


@pytest.mark.parametrize("prompt", ["", "Number:\n", "one {input} and {input}\n", "{", "%s"])
def test_only_the_places_of_the_question_are_filled(
    model_folders: dict[str, Path], prompt: str
) -> None:
    frozen = load(config(model_folders["llama"]), Path())
    assert asked(frozen, False, prompt + "Q: {input}\nA:", "{input}?") == (
        prompt + "Q: {input}?\nA:"
    )
