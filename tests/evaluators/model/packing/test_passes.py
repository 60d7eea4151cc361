from collections.abc import Sequence
from typing import Any

import pytest

from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.packing import train as training
from kilobit.evaluators.model.packing.passes import Planner
from kilobit.evaluators.model.packing.train import Job, train_pack
from tests.support.packs import beside, lessons, spec


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
