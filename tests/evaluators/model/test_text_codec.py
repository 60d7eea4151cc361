import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.oracles import ideal_bits
from kilobit.evaluators.model import text_codec
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.text_codec import (
    cache_for,
    decode_text,
    encode_text,
    next_logits,
    start_token,
)
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.text import PayloadError
from kilobit.search.programs.token_coder import (
    IMPORTS,
    CodingError,
    decoder_source,
    table_of,
)
from tests.conftest import ARCHITECTURES, REPOSITORY, _tokenizer
from tests.support.models import ARCHITECTURES as ALL_ARCHITECTURES
from tests.support.models import build_model

TEXT = "Q: Emma has 10 apples. She loses 2.\nA: 8\nÄ€\t<pad>  the the "


def frozen_from(folder: Path, **changes: object) -> FrozenModel:
    config = {"regime": "r", "path": str(folder)} | changes
    return load(BaseModelConfig.model_validate(config), Path())


def program_names(coded: bytes, model: Any, tokenizer: Any) -> dict[str, Any]:
    names = {"coded": coded, "model": model, "tokenizer": tokenizer}
    return names | {name: importlib.import_module(name) for name in IMPORTS}


@pytest.fixture
def always_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_codec, "_MOST_WITHOUT_CACHE", 0)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_comes_back_and_the_counted_decoder_gives_the_same(
    model_folders: dict[str, Path], architecture: str, dtype: str
) -> None:
    frozen = frozen_from(model_folders[architecture], dtype=dtype)
    data = encode_text(frozen, TEXT)
    assert cache_for(frozen, 40) == "none"
    for cache in (None, "none"):  # of programs from before there was a choice, and of now
        assert decode_text(frozen, data, cache) == TEXT
        # As a program has it: just loaded, with gradients.
        model = AutoModelForCausalLM.from_pretrained(
            model_folders[architecture], dtype=getattr(torch, dtype)
        )
        names = program_names(data, model, frozen.tokenizer)
        exec(decoder_source(start_token(frozen.tokenizer), data, cache, ""), names)
        assert names["prompt"] == TEXT


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL_ARCHITECTURES)
def test_every_architecture_decodes_with_its_cache_what_it_predicts_without(
    tmp_path: Path, name: str, dtype: str, always_cached: None
) -> None:
    frozen = frozen_from(
        build_model(name, _tokenizer(bos=True, pad=True), tmp_path / name), dtype=dtype
    )
    data, cache, start = (
        encode_text(frozen, TEXT),
        cache_for(frozen, 1),
        start_token(frozen.tokenizer),
    )
    without = {"mamba": "cache_params", "rwkv": "state", "mpt": "none"}
    assert cache == without.get(name, "past_key_values")
    assert decode_text(frozen, data, cache) == TEXT
    model = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=getattr(torch, dtype))
    names = program_names(data, model, frozen.tokenizer)
    exec(decoder_source(start, data, cache, ""), names)
    assert names["prompt"] == TEXT
    if dtype == "bfloat16":  # the choice of experts may turn on its last bit
        return
    # A cache that is ignored, or that has lost tokens, would predict something else.
    ids = frozen.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        whole = frozen.model(torch.tensor([[start, *ids]])).logits[0].float().numpy()
        step = next_logits(frozen.model, cache)
        found = [step([start, *ids[:place]]) for place in range(len(ids) + 1)]
    assert np.abs(whole - np.array(found)).max() < 1e-3


def test_with_a_cache_the_model_reads_each_token_once(
    model_folders: dict[str, Path], always_cached: None
) -> None:
    frozen, read = frozen_from(model_folders["llama"]), list[int]()
    frozen.model.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    data = encode_text(frozen, TEXT)
    tokens = len(frozen.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    assert read == [1] * 2 * tokens
    read.clear()
    names = program_names(data, frozen.model, frozen.tokenizer)
    source = decoder_source(start_token(frozen.tokenizer), data, "past_key_values", "")
    exec(source, names)
    assert read == [1] * tokens


def test_the_cached_decoder_of_a_program_builds_no_graph(model_folders: dict[str, Path]) -> None:
    # Each step's graph would hold the keys and values of all tokens before it.
    frozen, graphs = frozen_from(model_folders["llama"]), list[bool]()
    data = encode_text(frozen, TEXT)
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    assert next(model.parameters()).requires_grad
    model.register_forward_hook(lambda _, __, out: graphs.append(out.logits.requires_grad))
    names = program_names(data, model, frozen.tokenizer)
    exec(decoder_source(start_token(frozen.tokenizer), data, "past_key_values", ""), names)
    assert graphs
    assert not any(graphs)


def test_a_cache_is_for_texts_that_take_long_without(model_folders: dict[str, Path]) -> None:
    frozen = frozen_from(REPOSITORY / "examples" / "tiny" / "pretrained")
    assert cache_for(frozen, 100) == "none"
    assert cache_for(frozen, 1000) == "past_key_values"


def test_a_second_text_begins_with_an_empty_cache(model_folders: dict[str, Path]) -> None:
    step = next_logits(frozen_from(model_folders["llama"]).model, "past_key_values")
    first = step([1]).tolist()
    step([1, 5])
    assert step([1]).tolist() == first
    with pytest.raises(AssertionError, match="holds the ids of the last call"):
        step([1, 5, 7])


@pytest.mark.parametrize("length", range(4))
def test_the_counted_decoder_pads_every_length_and_checks(
    model_folders: dict[str, Path], length: int
) -> None:
    frozen = frozen_from(model_folders["llama"])
    text = next(
        text
        for text in (TEXT[:end] for end in range(1, len(TEXT)))
        if len(encode_text(frozen, text)) % 4 == length
    )
    data = encode_text(frozen, text)
    source = decoder_source(start_token(frozen.tokenizer), data, "none", "")
    names = program_names(data, frozen.model, frozen.tokenizer)
    exec(source, names)
    assert names["prompt"] == text
    names["coded"] = data[:-1] + bytes([data[-1] ^ 128])
    with pytest.raises(AssertionError):
        exec(source, names)


def test_one_thread_and_two_decode_the_same(restored_threads: None) -> None:
    frozen = frozen_from(REPOSITORY / "examples" / "tiny" / "pretrained")
    text = "Q: Emma has 10 apples. She loses 2. How many apples does Emma have now?\nA: 8\n"
    sections = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        sections.append(encode_text(frozen, text))
    assert sections[0] == sections[1]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert decode_text(frozen, sections[0], "none") == text


def test_a_trained_model_codes_near_its_own_bits_and_to_a_quarter_of_the_text() -> None:
    frozen = frozen_from(REPOSITORY / "examples" / "tiny" / "pretrained")
    text = "In: the dog sees the cat\nOut: der Hund sieht die Katze\n"
    ids = frozen.tokenizer(text, add_special_tokens=False)["input_ids"]
    bits = ideal_bits(ids, start_token(frozen.tokenizer), next_logits(frozen.model))
    assert abs(8 * len(encode_text(frozen, text)) - bits) < 40
    assert bits < 8 * len(text) / 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_the_models_last_in_float32(model_folders: dict[str, Path], dtype: str) -> None:
    frozen = frozen_from(model_folders["gpt2"], dtype=dtype)
    logits = next_logits(frozen.model)([0, 5, 9])
    expected = frozen.model(torch.tensor([[0, 5, 9]])).logits[0, 2]
    assert logits.dtype == np.float32
    assert logits.tolist() == expected.tolist()
    assert table_of(logits).shape == (len(frozen.tokenizer),)


def test_the_start_is_the_first_token_that_the_tokenizer_has() -> None:
    assert start_token(SimpleNamespace(bos_token_id=0, eos_token_id=1)) == 0
    assert start_token(SimpleNamespace(bos_token_id=None, eos_token_id=1)) == 1
    with pytest.raises(CodingError, match="neither"):
        start_token(SimpleNamespace(bos_token_id=None, eos_token_id=None))


def test_text_that_the_tokenizer_changes_is_refused(model_folders: dict[str, Path]) -> None:
    frozen = frozen_from(model_folders["llama"])
    from tokenizers import normalizers

    frozen.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(CodingError, match="does not reproduce the text"):
        encode_text(frozen, "Emma")
    assert decode_text(frozen, encode_text(frozen, "emma"), "none") == "emma"


def test_text_beyond_the_context_is_refused_and_so_is_a_claim_of_it(
    model_folders: dict[str, Path],
) -> None:
    frozen = frozen_from(model_folders["gpt2"])
    ids = [3] * 257
    text = frozen.tokenizer.decode(ids)
    assert len(frozen.tokenizer(text, add_special_tokens=False)["input_ids"]) == 257
    with pytest.raises(CodingError, match="257 tokens"):
        encode_text(frozen, text)
    for cache in ("none", "past_key_values"):
        with pytest.raises(PayloadError, match="more tokens than the model's context"):
            decode_text(frozen, b"\x00\xff\x02" + bytes(range(20)), cache)
