"""The digest of a base model covers all of its files that decide outputs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kilobit.evaluators.model.base_model import (
    FrozenModel,
    load,
    loaded_bytes,
    num_parameters,
    unchanged,
)
from kilobit.evaluators.model.generate import all_parts
from kilobit.evaluators.model.machine import (
    fingerprint,
    local_tensors,
    quantised_names,
    weight_bytes,
)
from kilobit.search.base_model import (
    BaseModelConfig,
    Quantization,
    differing_parts,
    digest_of,
)

TEMPLATE = "{% for m in messages %}Q: {{ m.content }}\nA:{% endfor %}"


def edit(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Return what changes a JSON file of a model's folder."""

    def edited(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text("utf-8")) if path.exists() else {}
        change(content)
        path.write_text(json.dumps(content), "utf-8")

    return edited


def swap_two_ids(content: Any) -> None:
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[50:52]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def hide_a_demonstration(content: Any) -> None:
    step = {"type": "Prepend", "prepend": "Q: 1 + 1 A: 2 "}
    content["normalizer"] = step


def flip_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"].view(torch.int32)[0] ^= 1
    save_file(tensors, path, {"format": "pt"})


def template(text: str) -> Callable[[Path], None]:
    def written(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text, "utf-8")

    return written


# What is changed in a folder, and the part that the change belongs to.
MUST_DIFFER = {
    "one bit of a weight": (flip_a_bit, "weights"),
    "two ids of the tokenizer": (edit("tokenizer.json", swap_two_ids), "tokenizer"),
    "a demonstration in the tokenizer": (edit("tokenizer.json", hide_a_demonstration), "tokenizer"),
    "no beginning of a text": (
        edit("tokenizer.json", lambda c: c.update(post_processor=None)),
        "tokenizer",
    ),
    "another end token of the tokenizer": (
        edit("tokenizer_config.json", lambda c: c.update(eos_token="<bos>")),
        "tokenizer",
    ),
    "a chat template": (template(TEMPLATE), "chat template"),
    "a number of the config": (
        edit("config.json", lambda c: c.update(rms_norm_eps=1e-5)),
        "config",
    ),
    "the end token of the config": (
        edit("config.json", lambda c: c.update(eos_token_id=3)),
        "config",
    ),
    "the end tokens of generation": (
        edit("generation_config.json", lambda c: c.update(eos_token_id=[0, 5])),
        "generation config",
    ),
    "a penalty of generation": (
        edit("generation_config.json", lambda c: c.update(repetition_penalty=1.2)),
        "generation config",
    ),
}
MUST_BE_EQUAL = {
    "the version that saved it": edit(
        "config.json", lambda c: c.update(transformers_version="4.0.0")
    ),
    "the version that saved its options": edit(
        "generation_config.json", lambda c: c.update(transformers_version="4.0.0")
    ),
    "the folder that it came from": edit(
        "config.json", lambda c: c.update(_name_or_path="/elsewhere")
    ),
    "a file that nobody reads": lambda folder: (folder / "README.md").write_text("# Model"),
    "white space": edit("tokenizer.json", lambda _: None),
}


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(model_folders["llama"], target)
    return target


def loaded(folder: Path) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=folder), Path())


@pytest.mark.parametrize("name", MUST_DIFFER)
def test_what_decides_outputs_is_in_the_digest(
    folder: Path, name: str, model_folders: dict[str, Path]
) -> None:
    change, part = MUST_DIFFER[name]
    change(folder)
    changed, honest = loaded(folder), loaded(model_folders["llama"])
    assert changed.machine != honest.machine
    assert part in differing_parts(changed.parts, honest.parts)
    assert not changed.was_recorded_as(honest.machine)
    assert (changed.digest != honest.digest) is (part == "weights")
    # Runs of earlier versions know the weights alone.
    assert changed.was_recorded_as(honest.digest) is (part != "weights")
    assert changed.was_recorded_as(None)


@pytest.mark.parametrize("name", MUST_BE_EQUAL)
def test_what_decides_nothing_is_not(
    folder: Path, name: str, model_folders: dict[str, Path]
) -> None:
    MUST_BE_EQUAL[name](folder)
    assert loaded(folder).parts == loaded(model_folders["llama"]).parts


def test_a_use_of_the_tokenizer_changes_no_digest(folder: Path) -> None:
    first = loaded(folder)
    first.tokenizer(["a", "b c d"], padding=True)
    first.tokenizer("a b c", truncation=True, max_length=1)
    assert loaded(folder).parts == first.parts


def test_five_models_of_the_same_weights_have_five_digests(
    folder: Path, model_folders: dict[str, Path]
) -> None:
    found = [loaded(folder)]
    for name in (
        "a demonstration in the tokenizer",
        "a chat template",
        "the end tokens of generation",
        "a penalty of generation",
        "no beginning of a text",
    ):
        shutil.rmtree(folder)
        shutil.copytree(model_folders["llama"], folder)
        MUST_DIFFER[name][0](folder)
        found.append(loaded(folder))
    assert len({one.digest for one in found}) == 1
    assert len({one.machine for one in found}) == len(found)


def test_all_differing_parts_are_named() -> None:
    old = {"weights": "a", "tokenizer": "b", "config": "c"}
    assert differing_parts(old, old) == ""
    assert differing_parts(old | {"config": "d"}, old) == "config"
    assert differing_parts({"weights": "x", "tokenizer": "y", "config": "z"}, old) == (
        "weights, tokenizer and config"
    )
    assert differing_parts(old, {}) == "weights, tokenizer and config"
    assert len({digest_of(old), digest_of(old | {"config": "d"})}) == 2


def quantised(folder: Path, quantization: Quantization | None, **more: Any) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=folder, quantization=quantization, **more), Path())


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantisation_is_a_part_of_the_machine(folder: Path, quantization: Quantization) -> None:
    plain, found = quantised(folder, None), quantised(folder, quantization)
    assert plain.parts.keys() | {"quantisation"} == found.parts.keys()
    # The weights are those of the files: what quantisation makes of them depends on the device.
    same = plain.parts.keys() - {"weights"}
    assert {name: found.parts[name] for name in same} == {name: plain.parts[name] for name in same}
    other = quantised(folder, "int8" if quantization == "nf4" else "nf4")
    assert differing_parts(found.parts, other.parts) == "quantisation"
    half = quantised(folder, quantization, dtype="bfloat16")
    assert differing_parts(found.parts, half.parts) == "quantisation"
    assert half.model.dtype == torch.bfloat16
    assert "bitsandbytes" in all_parts(found, train_split_in_machine=False)
    assert "bitsandbytes" not in all_parts(plain, train_split_in_machine=False)
    assert quantised(folder, quantization).machine == found.machine
    flip_a_bit(folder)
    assert differing_parts(quantised(folder, quantization).parts, found.parts) == "weights"


def test_random_weights_are_quantised_too(folder: Path) -> None:
    first, again = (quantised(folder, "nf4", weights="random", seed=1) for _ in range(2))
    assert first.machine == again.machine
    assert unchanged(first)
    assert fingerprint(first.model) == fingerprint(again.model)
    other = quantised(folder, "nf4", weights="random", seed=2)
    assert differing_parts(first.parts, other.parts) == "weights"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_the_bytes_of_a_model_are_known_before_it_is_loaded(
    model_folders: dict[str, Path], architecture: str, quantization: Quantization | None
) -> None:
    found = quantised(model_folders[architecture], quantization)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(found.model.config)
    kept = {t.data_ptr(): t.nbytes for _, t in local_tensors(found.model)}
    expected = weight_bytes(plain, quantization, 4)
    # Tables of 16 numbers and a description for each weight of 4 bits.
    most = 200 * len(quantised_names(plain)) if quantization == "nf4" else 100
    assert expected <= sum(kept.values()) <= expected + most
    assert num_parameters(found) == sum(p.numel() for p in plain.parameters())
    assert expected <= loaded_bytes(found) <= expected + most
