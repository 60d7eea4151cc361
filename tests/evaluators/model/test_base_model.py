import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import AutoTokenizer

from kilobit.evaluators.model.adapted import bare
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.generate import generate
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.packing.decode import Asked, check_context
from kilobit.evaluators.model.text_codec import encode_text
from kilobit.evaluators.model.training_batches import Lesson, training_batch, training_rows
from kilobit.search.programs.token_coder import CodingError
from tests.conftest import ARCHITECTURES
from tests.support.models import config
from tests.support.packs import TASK, spec


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


def test_a_token_that_the_model_lacks_is_no_padding_and_no_prompt(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(model_folders["llama"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<more>"})
    tokenizer.save_pretrained(folder)
    plain, frozen = load(config(model_folders["llama"]), Path()), load(config(folder), Path())
    assert frozen.pad_with_end
    assert frozen.tokenizer.pad_token_id == frozen.tokenizer.eos_token_id
    prompts, options = ["Q: Anna has 3 apples.\nA:", "Task: x"], {"max_new_tokens": 5, "stop": ()}
    found = generate(frozen, prompts, batch_size=2, **options)
    assert found.texts == generate(plain, prompts, batch_size=2, **options).texts
    ids = frozen.tokenizer("an <more> apple")["input_ids"]
    with pytest.raises(ValueError, match=r"the token '<more>' \(400\), which the tokenizer knows"):
        generate(frozen, ["an <more> apple"], batch_size=1, **options)
    with pytest.raises(ValueError, match="it has embeddings of 400 tokens"):
        check_context(frozen, Asked(0, tuple(ids), 5))
    with pytest.raises(ValueError, match="it has embeddings of 400 tokens"):
        bare(frozen).bits(["an <more> apple"])
    with pytest.raises(CodingError, match="the model has no token 400"):
        encode_text(frozen, "an<more>")
    example = replace(TASK.splits.train[0], target="<more>")
    for train in (training_rows, training_batch):
        with pytest.raises(ValueError, match="it has embeddings of 400 tokens"):
            train(frozen, Lesson(TASK, "", [example]), spec(), 0)


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def changed(path: Path, **values: object) -> None:
    content = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(content | values), "utf-8")


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_an_index(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        keys = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        changed(
            folder / "model.safetensors.index.json",
            metadata={},
            weight_map=dict.fromkeys(keys, name),
        )

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: changed(
                folder / "adapter_config.json",
                peft_type="LORA",
                base_model_name_or_path="another/model",
            ),
            "adapter_config.json lies beside the weights",
        ),
        (
            lambda folder: changed(
                folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}
            ),
            r"has a quantization_config \(gptq\)",
        ),
        (
            lambda folder: changed(
                folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"}
            ),
            "no causal language model of the type 'mine', and the code that config.json names",
        ),
        (without_a_weight, "lacks the weights model.layers.1.mlp.up_proj.weight"),
        (with_an_index("../other/model.safetensors"), "names ../other/model.safetensors, which"),
        (with_an_index("model-00002-of-00002.safetensors"), "names model-00002-of-00002"),
    ],
)
def test_weights_that_are_not_those_of_the_folder_are_refused(
    model_folders: dict[str, Path],
    tmp_path: Path,
    change: Callable[[Path], None],
    message: str,
) -> None:
    folder = copied(model_folders["llama"], tmp_path / "model")
    change(folder)
    with pytest.raises(ValueError, match=message):
        load(config(folder), Path())


def test_weights_in_several_files_are_those_of_one(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(model_folders["llama"], tmp_path / "model")
    with_an_index("model-00001-of-00001.safetensors")(folder)
    assert (
        load(config(folder), Path()).digest == load(config(model_folders["llama"]), Path()).digest
    )
