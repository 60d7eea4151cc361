"""What candidates do in a pack is what they do alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load, weights_digest
from kilobit.evaluators.model.generate import generate
from kilobit.evaluators.model.packing import train as training
from kilobit.evaluators.model.packing.decode import Asked, answer, log_likelihoods
from kilobit.evaluators.model.packing.deltas import Changes, detached, fixed
from kilobit.evaluators.model.packing.pack import Pack
from kilobit.evaluators.model.packing.passes import Planner
from kilobit.evaluators.model.packing.train import Job, train_pack
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import ARCHITECTURES, random_numbers

TASK = load_miniature("numbers", 0)
PROMPTS = ("", "Number:\n", "Answer with a number. " * 3)
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "stop": ("\n",)}
TARGETS = {
    "llama": (("q_proj", "down_proj"), ("v_proj",), ("input_layernorm",)),
    "gpt2": (("c_attn", "c_proj"), ("c_fc",), ("ln_1",)),
    "qwen2": (("o_proj", "up_proj"), ("k_proj",), ("norm",)),
}


def spec(**changes: Any) -> AdapterSpec:
    values = {
        "method": "lora",
        "rank": 2,
        "target_modules": ("q_proj",),
        "learning_rate": 0.003,
        "steps": 8,
        "batch_size": 3,
        "seed": 7,
    }
    given = values | changes
    return AdapterSpec.model_validate({k: v for k, v in given.items() if v is not None})


def mixed(architecture: str) -> list[AdapterSpec]:
    """Return adapters of all kinds, ranks, rates, lengths, batch sizes and seeds."""
    some, one, norm = TARGETS[architecture]
    return [
        spec(target_modules=some),
        spec(target_modules=one, rank=4, learning_rate=0.01, steps=5, batch_size=1, seed=3),
        spec(method="lora_fa", target_modules=some, seed=4),
        spec(method="lora_xs", target_modules=one, rank=3),
        spec(method="tinylora", target_modules=one, rank=None, size=5),
        spec(method="vera", target_modules=one, rank=4, learning_rate=0.01),
        spec(method="unilora", target_modules=some, rank=None, size=8),
        spec(method="ia3", target_modules=some, rank=None),
        spec(method="ln_tuning", target_modules=norm, rank=None),
        spec(method="soft_prompt", target_modules=None, rank=None, size=3),
        spec(target_modules=some, training="rate", nats_per_kbit=0.01),
        spec(target_modules=one, training="bits", nats_per_kbit=0.01),
    ]


@pytest.fixture(params=ARCHITECTURES)
def frozen(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders[request.param]), Path())


@pytest.fixture
def llama(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def architecture(frozen: FrozenModel) -> str:
    return str(frozen.model.config.model_type)


def lessons(specs: Sequence[AdapterSpec]) -> list[Lesson]:
    return [Lesson(TASK, PROMPTS[i % 3], TASK.splits.train) for i in range(len(specs))]


def beside(frozen: FrozenModel, one: AdapterSpec) -> tuple[Adapter, Changes]:
    found = detached(frozen, one)
    assert found is not None
    return found


def rows_of(frozen: FrozenModel, prompts: Sequence[str], soft: Sequence[int]) -> list[Asked]:
    """Return rows of the first examples for each slot with its prompt and its soft tokens."""
    rows = []
    for slot, (prompt, size) in enumerate(zip(prompts, soft, strict=True)):
        for text in texts(prompt):
            ids = frozen.tokenizer(text, add_special_tokens=frozen.special_tokens)["input_ids"]
            whole = (*(-1 - i for i in range(size)), *ids)
            rows.append(Asked(slot, whole, OPTIONS["max_new_tokens"], OPTIONS["stop"]))
    return rows


def texts(prompt: str) -> list[str]:
    return [prompt + TASK.ask(example.input) for example in TASK.splits.search[:4]]


def said(frozen: FrozenModel, found: Sequence[list[int] | MemoryError]) -> list[str]:
    assert not any(isinstance(row, MemoryError) for row in found)
    return [frozen.tokenizer.decode(row, skip_special_tokens=True) for row in found]


def test_packed_training_gives_the_losses_and_numbers_of_separate_training(
    frozen: FrozenModel,
) -> None:
    specs = mixed(architecture(frozen))
    alone = []
    for one, lesson in zip(specs, lessons(specs), strict=True):
        with installed(frozen, one) as adapter:
            trained = adapter.train(frozen, lesson, one.steps)
            alone.append((trained, adapter.tensors()))
    jobs = [
        Job(*beside(frozen, one), lesson, one.steps)
        for one, lesson in zip(specs, lessons(specs), strict=True)
    ]
    train_pack(frozen, jobs, Planner())
    for one, job, (trained, numbers) in zip(specs, jobs, alone, strict=True):
        assert job.error is None
        assert job.trained.steps == trained.steps == one.steps
        assert job.trained.loss == pytest.approx(trained.loss, abs=1e-5), one
        for tensor, other in zip(job.adapter.tensors(), numbers, strict=True):
            assert tensor == pytest.approx(other, abs=3e-4), one
        assert any((tensor != 0).any() for tensor in job.adapter.tensors())
        assert job.seconds > 0
    assert weights_digest(frozen.model) == frozen.digest
    assert not any(module._forward_hooks for module in frozen.model.modules())


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


def test_fixed_changes_stay_when_the_adapter_goes_on(llama: FrozenModel) -> None:
    adapter, change = beside(llama, spec(method="ln_tuning", rank=None, target_modules=("norm",)))
    adapter.assign(random_numbers(adapter, 1))
    before = fixed(change)
    rows = rows_of(llama, [""], [0])
    first = said(llama, answer(llama, [before], rows, Planner()))
    adapter.assign(random_numbers(adapter, 2))
    assert said(llama, answer(llama, [before], rows, Planner())) == first
    assert said(llama, answer(llama, [fixed(change)], rows, Planner())) != first


def test_a_loss_that_is_not_finite_fails_alone(llama: FrozenModel) -> None:
    specs = [spec(), spec(learning_rate=1e30), spec(seed=9)]
    jobs = [
        Job(*beside(llama, one), lesson, one.steps)
        for one, lesson in zip(specs, lessons(specs), strict=True)
    ]
    train_pack(llama, jobs, Planner())
    assert isinstance(jobs[1].error, FloatingPointError)
    for one, job, lesson in zip(specs, jobs, lessons(specs), strict=True):
        if job is not jobs[1]:
            with installed(llama, one) as adapter:
                trained = adapter.train(llama, lesson, one.steps)
            assert job.trained.loss == pytest.approx(trained.loss, abs=1e-5)


def test_an_example_that_does_not_fit_fails_alone(llama: FrozenModel) -> None:
    long = Lesson(TASK, "dog " * 300, TASK.splits.train)
    jobs = [Job(*beside(llama, spec()), one, 8) for one in (long, lessons([spec()])[0])]
    train_pack(llama, jobs, Planner())
    assert "does not fit into the model's context" in str(jobs[0].error)
    assert jobs[1].error is None
    assert jobs[1].trained.steps == 8


def test_where_memory_runs_out_smaller_passes_do_the_same(
    llama: FrozenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [spec(seed=seed) for seed in range(5)]
    run, sizes = training._pass, []

    def tight(frozen: FrozenModel, steps: Sequence[Any]) -> None:
        sizes.append(len(steps))
        if len(steps) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        run(frozen, steps)

    def losses(planner: Planner) -> list[float | None]:
        jobs = [
            Job(*beside(llama, one), lesson, one.steps)
            for one, lesson in zip(specs, lessons(specs), strict=True)
        ]
        train_pack(llama, jobs, planner)
        assert [job.error for job in jobs] == [None] * len(jobs)
        return [job.trained.loss for job in jobs]

    expected = losses(Planner())
    monkeypatch.setattr(training, "_pass", tight)
    planner = Planner()
    assert losses(planner) == pytest.approx(expected, abs=1e-5)
    assert sizes[0] == 5
    # Once it is known what fits, no more is tried.
    assert max(sizes[10:]) <= 2
    assert planner.limit is not None


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


def test_log_likelihoods_are_those_of_the_whole_text(llama: FrozenModel) -> None:
    adapter, change = beside(llama, spec())
    adapter.assign(random_numbers(adapter))
    rows = rows_of(llama, ["", "Number:\n"], [0, 0])
    answers = [[5 + i, 9, 30 + i][: 1 + i % 3] for i in range(len(rows))]
    with Pack(llama.model, [fixed(change), {}]) as pack:
        found = log_likelihoods(llama, pack, rows, answers)
    with installed(llama, spec()) as on_model, torch.no_grad():
        on_model.assign(random_numbers(adapter))
        for i, (row, new) in enumerate(zip(rows, answers, strict=True)):
            if row.slot == 0:
                ids = torch.tensor([[*row.ids, *new]])
                told = on_model.model(ids).logits[0].log_softmax(-1)
                each = [told[len(row.ids) - 1 + j, token] for j, token in enumerate(new)]
                assert found[i] == pytest.approx(float(sum(each)), abs=1e-4)
    with torch.no_grad():
        last, new = rows[-1], answers[-1]
        told = llama.model(torch.tensor([[*last.ids, *new]])).logits[0].log_softmax(-1)
        each = [told[len(last.ids) - 1 + j, token] for j, token in enumerate(new)]
        assert found[-1] == pytest.approx(float(sum(each)), abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "weights", "rank": None},
        {"method": "fourierft", "rank": None, "size": 3},
        {"target_modules": ("embed_tokens",)},
    ],
)
def test_what_has_no_form_for_packs_is_left_to_run_alone(
    llama: FrozenModel, changes: dict[str, Any]
) -> None:
    assert detached(llama, spec(**changes)) is None
    assert weights_digest(llama.model) == llama.digest


def test_an_error_in_a_pass_leaves_no_hooks(llama: FrozenModel) -> None:
    _, change = beside(llama, spec())
    with (
        pytest.raises(ValueError, match="gets 2 rows, expected 3"),
        Pack(llama.model, [change]) as pack,
        pack.rows(torch.zeros(3, dtype=torch.long)),
    ):
        pack(torch.ones(2, 4, dtype=torch.long))
    assert not any(module._forward_hooks for module in llama.model.modules())
