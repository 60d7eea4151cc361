from pathlib import Path

import pytest

from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.generate import asked, generate
from tests.conftest import ARCHITECTURES
from tests.support.models import config


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


@pytest.mark.parametrize("prompt", ["", "Number:\n", "one {input} and {input}\n", "{", "%s"])
def test_only_the_places_of_the_question_are_filled(
    model_folders: dict[str, Path], prompt: str
) -> None:
    frozen = load(config(model_folders["llama"]), Path())
    assert asked(frozen, False, prompt + "Q: {input}\nA:", "{input}?") == (
        prompt + "Q: {input}?\nA:"
    )
