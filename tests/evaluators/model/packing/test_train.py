from dataclasses import replace
from typing import Any

import pytest

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import ALONE, FrozenModel
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.packing.deltas import Changes, LowRank
from kilobit.evaluators.model.packing.passes import Planner
from kilobit.evaluators.model.packing.train import Job, train_pack
from kilobit.evaluators.model.training_batches import Lesson
from tests.support.packs import TASK, architecture, beside, lessons, mixed, spec


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


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_with_rows_of_their_own_run_the_model_equally_often(
    llama: FrozenModel, world_size: int
) -> None:
    specs = mixed("llama")
    runs = []
    for rank in range(world_size):
        told = {"rank": rank, "world_size": world_size, "splits_rows": True}
        shard = type("Part", (type(ALONE),), told)()
        frozen, calls = replace(llama, shard=shard), 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        jobs = [
            Job(*beside(llama, one), lesson, one.steps)
            for one, lesson in zip(specs, lessons(specs), strict=True)
        ]
        handle = llama.model.register_forward_hook(count)
        train_pack(frozen, jobs, Planner())
        handle.remove()
        runs.append(calls)
    assert runs[0] > 0
    assert len(set(runs)) == 1, runs


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


def test_an_adapter_that_raises_fails_alone(llama: FrozenModel) -> None:
    def broken() -> Any:
        raise AssertionError("no factors")

    specs = [spec(), spec(seed=8), spec(seed=9)]
    found = [beside(llama, one) for one in specs]
    changes: Changes = {"model.layers.0.self_attn.q_proj": LowRank(broken)}
    found[1] = (found[1][0], changes)
    jobs = [
        Job(*pair, lesson, one.steps)
        for pair, one, lesson in zip(found, specs, lessons(specs), strict=True)
    ]
    train_pack(llama, jobs, Planner())
    assert isinstance(jobs[1].error, AssertionError)
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
