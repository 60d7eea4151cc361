from typing import Any

import pytest
import torch

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.generate import generate
from kilobit.evaluators.model.packing.decode import Asked, answer, judge_answers
from kilobit.evaluators.model.packing.deltas import Changes, LowRank, fixed
from kilobit.evaluators.model.packing.pack import Pack
from kilobit.evaluators.model.packing.passes import Planner
from tests.conftest import random_numbers
from tests.support.packs import (
    OPTIONS,
    PROMPTS,
    architecture,
    beside,
    mixed,
    rows_of,
    said,
    spec,
    texts,
)


def test_packed_generation_says_what_each_candidate_says_alone(frozen: FrozenModel) -> None:
    specs = mixed(architecture(frozen))
    prompts = [PROMPTS[i % 3] for i in range(len(specs) + 2)]
    changes: list[Changes] = []
    alone: list[str] = []
    for i, (one, prompt) in enumerate(zip(specs, prompts, strict=False)):
        adapter, change = beside(frozen, one)
        numbers = random_numbers(adapter, i)
        adapter.assign(numbers)
        changes.append(fixed(change))
        with installed(frozen, one) as on_model:
            on_model.assign(numbers)
            size = 1 if one.method == "soft_prompt" else 4
            made = generate(frozen, texts(prompt), batch_size=size, model=on_model.model, **OPTIONS)
        alone += made.texts
    # Prompts are candidates without an adapter.
    for prompt in prompts[-2:]:
        changes.append({})
        alone += generate(frozen, texts(prompt), batch_size=4, **OPTIONS).texts
    soft = [one.size or 0 if one.method == "soft_prompt" else 0 for one in specs] + [0, 0]
    found = answer(frozen, changes, rows_of(frozen, prompts, soft), Planner())
    assert said(frozen, found) == alone
    assert len(set(alone)) > 10
    bare = generate(frozen, texts(""), batch_size=4, **OPTIONS).texts
    assert said(frozen, answer(frozen, [{}], rows_of(frozen, [""], [0]), Planner())) == bare


def test_a_row_has_its_own_limit_and_stop_strings(llama: FrozenModel) -> None:
    (row, *_) = rows_of(llama, [""], [0])
    free = Asked(0, row.ids, 8)
    (long,) = answer(llama, [{}], [free], Planner())
    assert isinstance(long, list)
    text = llama.tokenizer.decode(long[:3])
    rows = [Asked(0, row.ids, 2), Asked(0, row.ids, 8, (text[-1],)), free]
    short, stopped, again = answer(llama, [{}], rows, Planner())
    assert short == long[:2]
    assert isinstance(stopped, list)
    assert len(stopped) <= 3
    assert stopped == long[: len(stopped)]
    assert again == long


def test_generation_that_runs_out_of_memory_is_tried_in_halves(
    llama: FrozenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(llama, PROMPTS, [0, 0, 0])
    expected = answer(llama, [{}, {}, {}], rows, Planner())
    forward, sizes = Pack.__call__, []

    def tight(self: Pack, input_ids: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids, **options)

    monkeypatch.setattr(Pack, "__call__", tight)
    assert answer(llama, [{}, {}, {}], rows, Planner()) == expected

    def none(self: Pack, input_ids: torch.Tensor, **options: Any) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr(Pack, "__call__", none)
    assert all(isinstance(row, MemoryError) for row in answer(llama, [{}] * 3, rows, Planner()))


def test_a_candidate_that_raises_fails_alone(llama: FrozenModel) -> None:
    def broken() -> Any:
        raise AssertionError("no factors")

    rows = rows_of(llama, PROMPTS, [0, 0, 0])
    expected = answer(llama, [{}, {}, {}], rows, Planner())
    slots: list[Changes] = [{}, {"model.layers.0.self_attn.q_proj": LowRank(broken)}, {}]
    planner = Planner(4096)
    for row, found, good in zip(rows, answer(llama, slots, rows, planner), expected, strict=True):
        assert isinstance(found, AssertionError) if row.slot == 1 else found == good
    # It was not the size of the passes.
    assert planner.limit == 4096


def test_log_probabilities_are_those_of_the_whole_text(llama: FrozenModel) -> None:
    adapter, change = beside(llama, spec())
    adapter.assign(random_numbers(adapter))
    rows = rows_of(llama, ["", "Number:\n"], [0, 0])
    answers = [[5 + i, 9, 30 + i][: 1 + i % 3] for i in range(len(rows))]
    with Pack(llama.model, [fixed(change), {}]) as pack:
        found = judge_answers(llama, pack, rows, answers)
    with installed(llama, spec()) as on_model, torch.no_grad():
        on_model.assign(random_numbers(adapter))
        for i, (row, new) in enumerate(zip(rows, answers, strict=True)):
            if row.slot == 0:
                ids = torch.tensor([[*row.ids, *new]])
                told = on_model.model(ids).logits[0].log_softmax(-1)
                each = [told[len(row.ids) - 1 + j, token] for j, token in enumerate(new)]
                assert found[i][0] == pytest.approx(float(sum(each)), abs=1e-4)
    with torch.no_grad():
        last, new = rows[-1], answers[-1]
        told = llama.model(torch.tensor([[*last.ids, *new]])).logits[0].log_softmax(-1)
        each = [told[len(last.ids) - 1 + j, token] for j, token in enumerate(new)]
        assert found[-1][0] == pytest.approx(float(sum(each)), abs=1e-4)
