"""The data recipe outside of torch: its fields, its draw, and the statements it becomes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kilobit.cluster.driver.check import check_sweep
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.candidate import Candidate
from kilobit.search.programs.program import decode
from kilobit.search.programs.recipe import DataPart, PromptPart, Recipe
from kilobit.search.programs.script import data_statements, readable_script, script
from kilobit.search.programs.text import PayloadError
from kilobit.search.settings import InputError
from kilobit.search.space import Families, RateSearch, draw_candidates
from tests.support.adapters import spec

PART = DataPart(
    arguments={"r": 4, "target_modules": ["q_proj"]},
    num_examples=64,
    start_token=0,
    end_token=201,
    end_count=2,
    answer_tokens=2,
    steps=320,
    full_steps=640,
    batch_size=2,
    learning_rate=0.001,
    padding=3,
    checksum=123,
)
GOLDEN = """\
from constriction import stream
torch.manual_seed(0)
model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=['q_proj']))
decoder = stream.queue.RangeDecoder(numpy.frombuffer(bytes(3) + coded, 'u4')[::-1])
examples = []
check = 0
for place in range(640):
    if place < 64:
        ids = [0]
        while ids.count(201) < 2:
            nats = numpy.round(model(torch.tensor([ids])).logits[0, -1].tolist())
            ids += (decoder.decode(stream.model.Categorical(2.72 ** (nats - max(nats) + 13) // 1, \
1 > 0)),)
        batch = torch.tensor([ids])
        examples += ((batch, batch + 0),)
    batch, labels = examples[place % 64]
    model(batch, labels=labels).loss.backward()
    labels[0, :-2] = -100
    if place % 2 == 1:
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data -= 0.001 * (1 - place / 1280) * weight.grad.sign()
                weight.grad *= 0.9
                check = zlib.crc32(weight.data.numpy(), check)
assert check == 123"""


def recipe(**changes: Any) -> Recipe:
    values = {"question": "Q: {input}\nA:", "batch_size": 8, "max_new_tokens": 12, "data": PART}
    return Recipe.model_validate(values | changes)


def test_the_statements_are_the_golden_ones() -> None:
    assert "\n".join(data_statements(PART, cuda=False)) == GOLDEN


def test_steps_of_one_example_need_no_condition() -> None:
    alone = PART.model_copy(update={"batch_size": 1})
    assert "place % 1" not in "\n".join(data_statements(alone, cuda=False))


def test_a_gpu_gets_the_tensors_and_gives_them_back_to_be_summed() -> None:
    lines = "\n".join(data_statements(PART, cuda=True))
    assert lines.count("torch.tensor([ids]).cuda()") == 2
    assert "weight.data.cpu().numpy()" in lines


def test_what_the_examples_cost_in_the_program() -> None:
    bare = recipe(data=None, stop=("\n",))
    assert len(script(recipe(stop=("\n",)))) - len(script(bare)) < 760


def test_a_prompt_stands_before_the_examples() -> None:
    both = recipe(prompt=PromptPart(codec="stored", num_bytes=4))
    lines = readable_script(both)
    assert "payload = open('payload.bin', 'rb').read()" in lines
    assert "prompt = payload[:4].decode()" in lines
    assert "coded = payload[4:]" in lines
    assert decode(both, b"Go!\nx").prompt == "Go!\n"


@pytest.mark.parametrize("num_bytes", [0, 2, 3, 4])
def test_a_section_of_another_length_is_refused(num_bytes: int) -> None:
    assert decode(recipe(), bytes(5)).tensors == []
    with pytest.raises(PayloadError, match="not an examples section"):
        decode(recipe(), bytes(num_bytes))


def test_the_canonical_recipe_is_read_back() -> None:
    assert Recipe.model_validate_json(recipe().canonical(), strict=True) == recipe()
    assert '"data"' not in recipe(data=None).canonical()


def test_there_are_no_coarser_programs() -> None:
    candidate = Candidate(task="numbers", model="m", adapter=spec())
    assert RateSearch().variants(candidate) == []
    lora = spec(method="lora", size=None)
    assert RateSearch().variants(candidate.model_copy(update={"adapter": lora}))


def test_a_family_draws_sizes_and_ranks() -> None:
    space = {"data": {"candidates": 20, "size": [8, 16], "rank": [1, 2], "steps": [40]}}
    families = Families.model_validate_json(json.dumps(space), strict=True)
    drawn = [
        candidate.adapter
        for candidate in draw_candidates(families, load_miniature("numbers", 0), ["m"], 0)
        if candidate.adapter is not None
    ]
    assert {adapter.method for adapter in drawn} == {"data"}
    assert {adapter.size for adapter in drawn} == {8, 16}
    assert {adapter.rank for adapter in drawn} == {1, 2}


def test_a_family_whose_steps_end_too_early_is_refused() -> None:
    with pytest.raises(ValidationError, match="40 steps of 2 do not reach 81 examples"):
        Families.model_validate(
            {"data": {"candidates": 1, "size": (8, 81), "steps": (40, 90), "batch_size": 2}}
        )


def test_more_examples_than_the_train_split_are_found_before_the_run(
    write_sweep: Callable[..., Path],
) -> None:
    file = write_sweep(families={"data": {"candidates": 1, "size": [600], "rank": [1]}})
    with pytest.raises(InputError, match=r"families\.data\.size: 600 are more than the train"):
        check_sweep(load_sweep(file), file.parent)
