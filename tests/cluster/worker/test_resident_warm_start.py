from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.cluster.worker.resident import begin_from
from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Rung
from tests.support.recipes import NUMBER_METHODS, adapter_spec

TASK = load_miniature("numbers", 0)
LESSON = Lesson(TASK, "", TASK.splits.train)
NAME = "0123456789abcdef"


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def state_of(frozen: FrozenModel, spec: AdapterSpec) -> tuple[bytes, dict[str, torch.Tensor]]:
    with installed(frozen, spec) as adapter:
        adapter.train(frozen, LESSON, 3)
        return adapter.state(), {n: w.detach().clone() for n, w in adapter.masters.items()}


def logits(adapter: Adapter) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = adapter.model(input_ids=torch.arange(20, 60)[None]).logits
    return found


@pytest.mark.parametrize("method", NUMBER_METHODS)
def test_the_same_shape_takes_over_every_number_and_begins_at_step_0(
    frozen: FrozenModel, method: str
) -> None:
    state, trained = state_of(frozen, adapter_spec(method))
    with installed(frozen, adapter_spec(method, seed=8, learning_rate=0.01)) as adapter:
        begin_from(adapter, NAME, state)
        assert adapter.steps == 0
        assert all(torch.equal(adapter.masters[name], w) for name, w in trained.items())
        begun = adapter.tensors()
        adapter.train(frozen, LESSON, 1)
        assert any(not np.array_equal(a, b) for a, b in zip(begun, adapter.tensors(), strict=True))


def test_more_ranks_of_a_lora_compute_the_same_at_first(frozen: FrozenModel) -> None:
    state, _ = state_of(frozen, adapter_spec("lora", rank=2))
    with installed(frozen, adapter_spec("lora", rank=2)) as adapter:
        begin_from(adapter, NAME, state)
        expected = logits(adapter)
    with installed(frozen, adapter_spec("lora", rank=4, seed=9)) as adapter:
        bare = logits(adapter)
        begin_from(adapter, NAME, state)
        assert torch.allclose(logits(adapter), expected, atol=1e-5)
        assert not torch.allclose(bare, expected, atol=1e-3)


def test_fewer_ranks_take_the_first_ones(frozen: FrozenModel) -> None:
    state, trained = state_of(frozen, adapter_spec("lora", rank=2))
    with installed(frozen, adapter_spec("lora", rank=1)) as adapter:
        begin_from(adapter, NAME, state)
        for name, weight in adapter.masters.items():
            part = trained[name][:1] if "lora_A" in name else trained[name][:, :1]
            assert torch.equal(weight, part)


def test_the_square_of_another_rank_keeps_its_rows_and_columns(frozen: FrozenModel) -> None:
    state, trained = state_of(frozen, adapter_spec("lora_xs", rank=2))
    with installed(frozen, adapter_spec("lora_xs", rank=3)) as adapter:
        before = {name: w.detach().clone().view(3, 3) for name, w in adapter.masters.items()}
        begin_from(adapter, NAME, state)
        for name, weight in adapter.masters.items():
            assert torch.equal(weight.view(3, 3)[:2, :2], trained[name].view(2, 2))
            assert torch.equal(weight.view(3, 3)[2], before[name][2])


def test_a_tensor_that_the_other_has_not_stays(frozen: FrozenModel) -> None:
    state, trained = state_of(frozen, adapter_spec("lora", target_modules=("q_proj",)))
    with installed(frozen, adapter_spec("lora", target_modules=("q_proj", "v_proj"))) as adapter:
        before = {name: w.detach().clone() for name, w in adapter.masters.items()}
        begin_from(adapter, NAME, state)
        for name, weight in adapter.masters.items():
            assert torch.equal(weight, trained.get(name, before[name]))
        assert before.keys() > trained.keys()


def test_learned_bits_get_a_range_that_the_new_numbers_fit_into(frozen: FrozenModel) -> None:
    plain = adapter_spec("lora", steps=40, learning_rate=0.3)
    with installed(frozen, plain) as adapter:
        adapter.train(frozen, LESSON, 40)
        state, trained = adapter.state(), {n: w.detach() for n, w in adapter.masters.items()}
        largest = max(float(w.abs().max()) for w in trained.values())
    assert largest > 0.5
    with installed(frozen, adapter_spec("lora", training="bits", nats_per_kbit=0.01)) as adapter:
        begin_from(adapter, NAME, state)
        assert adapter.transform is not None
        final = adapter.transform.final(adapter.masters)
        assert max(float(w.abs().max()) for w in final.values()) > 0.9 * largest


def test_a_state_without_a_place_and_a_missing_one_are_errors(frozen: FrozenModel) -> None:
    state, _ = state_of(frozen, adapter_spec("ia3"))
    with installed(frozen, adapter_spec("lora")) as adapter:
        with pytest.raises(ValueError, match=f"{NAME}: none of its tensors"):
            begin_from(adapter, NAME, state)
        with pytest.raises(ValueError, match=f"{NAME}: it has no checkpoint"):
            begin_from(adapter, NAME, None)


def lora(**changes: object) -> Candidate:
    values = {
        "method": "lora",
        "rank": 1,
        "target_modules": ("q_proj",),
        "learning_rate": 0.05,
        "steps": 4,
        "batch_size": 2,
        "seed": 1,
    }
    return Candidate(
        task="numbers", model="llama", adapter=AdapterSpec.model_validate(values | changes)
    )


@pytest.fixture
def evaluator(write_sweep: Callable[..., Path], tmp_path: Path) -> RungEvaluator:
    sweep = load_sweep(write_sweep())
    run = str(tmp_path / "run")
    return RungEvaluator(
        EvaluatorSetup(sweep.model_dump_json(), str(tmp_path), run, "llama", "llama-0", 1)
    )


def test_a_candidate_begins_from_the_latest_state_of_the_one_it_names(
    evaluator: RungEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rungs = (Rung(0, 4, 2), Rung(1, 8, 4))
    first = lora()
    for rung in rungs:
        evaluator.run_rung(first.canonical(), rung)
    states = []

    def spy(adapter: Adapter, start: str, state: bytes | None) -> None:
        states.append((start, state))
        begin_from(adapter, start, state)

    monkeypatch.setattr("kilobit.cluster.worker.resident.begin_from", spy)
    warm = lora(learning_rate=0.02, start=first.id)
    records = [evaluator.run_rung(warm.canonical(), rung).record for rung in rungs]
    # The second rung goes on from the candidate's own state.
    assert states == [(first.id, evaluator._runner._states.before(first.id, 2))]
    assert [record.train_steps for record in records] == [2, 4]
    cold = evaluator.run_rung(lora(learning_rate=0.02).canonical(), rungs[1]).record
    # The programs may be equal: an adapter that changes no output is left out.
    assert cold.train_loss != records[1].train_loss


def test_a_start_without_a_state_is_a_row_that_says_so(evaluator: RungEvaluator) -> None:
    record = evaluator.run_rung(lora(start=NAME).canonical(), Rung(0, 4, 2)).record
    assert record.error is not None
    assert f"ValueError: the adapter can't begin from {NAME}: it has no checkpoint" in record.error
