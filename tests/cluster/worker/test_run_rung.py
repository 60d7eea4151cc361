from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kilobit.cluster.messages import BaseModelChangedError, EvaluatorSetup
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.cluster.worker.run_rung import RungRunner
from kilobit.search.rungs import Rung
from tests.support.driver.candidates import lora

FIRST, SECOND = Rung(0, 4, 2), Rung(1, 8, 4)


@pytest.fixture
def make_evaluator(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> Callable[..., RungEvaluator]:
    def make(run: str = "run") -> RungEvaluator:
        sweep = load_sweep(write_sweep())
        setup = EvaluatorSetup(
            sweep.model_dump_json(), str(tmp_path), str(tmp_path / run), "llama", "llama-0", 1
        )
        return RungEvaluator(setup)

    return make


@pytest.fixture
def evaluator(make_evaluator: Callable[..., RungEvaluator]) -> RungEvaluator:
    return make_evaluator()


def test_a_changed_base_model_stops_the_worker(
    evaluator: RungEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RungRunner.run

    def vandal(self: RungRunner, *args: Any) -> Any:
        with torch.no_grad():
            self._frozen.model.lm_head.weight[0, 0] += 1
        return run(self, *args)

    monkeypatch.setattr(RungRunner, "run", vandal)
    with pytest.raises(BaseModelChangedError, match="of the base model have changed"):
        evaluator.run_rung(lora().canonical(), FIRST)
