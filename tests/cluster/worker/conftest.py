"""Evaluators of the tests of workers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator


@pytest.fixture
def make_evaluator(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> Callable[..., RungEvaluator]:
    def make(run: str = "run", **changes: Any) -> RungEvaluator:
        sweep = load_sweep(write_sweep(**changes))
        setup = EvaluatorSetup(
            sweep.model_dump_json(), str(tmp_path), str(tmp_path / run), "llama", "llama-0", 1
        )
        return RungEvaluator(setup)

    return make


@pytest.fixture
def evaluator(make_evaluator: Callable[..., RungEvaluator]) -> RungEvaluator:
    return make_evaluator()
