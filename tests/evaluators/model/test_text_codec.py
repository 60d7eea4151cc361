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
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.text_codec import decode_text, encode_text, next_logits, start_token
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.text import PayloadError
from kilobit.search.programs.token_coder import (
    IMPORTS,
    CodingError,
    decoder_source,
    table_of,
)
from tests.conftest import ARCHITECTURES, REPOSITORY

TEXT = "Q: Emma has 10 apples. She loses 2.\nA: 8\nÄ€\t<pad>  the the "


def frozen_from(folder: Path, **changes: object) -> FrozenModel:
    config = {"regime": "r", "path": str(folder)} | changes
    return load(BaseModelConfig.model_validate(config), Path())


def program_names(coded: bytes, model: Any, tokenizer: Any) -> dict[str, Any]:
    names = {"coded": coded, "model": model, "tokenizer": tokenizer}
    return names | {name: importlib.import_module(name) for name in IMPORTS}


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
    assert decode_text(frozen, data) == TEXT
    # As a program has it: just loaded, with gradients.
    model = AutoModelForCausalLM.from_pretrained(
        model_folders[architecture], dtype=getattr(torch, dtype)
    )
    names = program_names(data, model, frozen.tokenizer)
    exec(decoder_source(start_token(frozen.tokenizer), data), names)
    assert names["prompt"] == TEXT


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
    source = decoder_source(start_token(frozen.tokenizer), data)
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
        assert decode_text(frozen, sections[0]) == text


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
    assert decode_text(frozen, encode_text(frozen, "emma")) == "emma"


def test_text_beyond_the_context_is_refused_and_so_is_a_claim_of_it(
    model_folders: dict[str, Path],
) -> None:
    frozen = frozen_from(model_folders["gpt2"])
    ids = [3] * 257
    text = frozen.tokenizer.decode(ids)
    assert len(frozen.tokenizer(text, add_special_tokens=False)["input_ids"]) == 257
    with pytest.raises(CodingError, match="257 tokens"):
        encode_text(frozen, text)
    with pytest.raises(PayloadError, match="more tokens than the model's context"):
        decode_text(frozen, b"\x00\xff\x02" + bytes(range(20)))
