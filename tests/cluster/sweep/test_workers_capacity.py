from collections.abc import Callable
from pathlib import Path

import pytest

from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.search.settings import InputError


@pytest.fixture
def sweep(write_sweep: Callable[..., Path]) -> Callable[..., Sweep]:
    return lambda **workers: load_sweep(write_sweep(workers=workers))


def plan_cpus(sweep: Sweep, cpus: float, gpus: float = 0) -> float:
    return sweep.workers.cpus_here(len(sweep.base_models), cpus, gpus)


def test_workers_share_the_cpus_that_are_there(sweep: Callable[..., Sweep]) -> None:
    assert plan_cpus(sweep(per_model=1), 8) == 1
    assert plan_cpus(sweep(per_model=1, threads=4), 8) == 4
    share = plan_cpus(sweep(per_model=3), 2)
    assert share > 0.6
    assert 3 * (share + 0.01) <= 2


def test_more_than_there_is_is_refused(sweep: Callable[..., Sweep]) -> None:
    with pytest.raises(InputError, match=r"workers\.cpus: 3 workers with 1\.0 CPUs each need 3"):
        plan_cpus(sweep(per_model=3, cpus=1), 2)
    with pytest.raises(InputError, match="300 workers are too many for 2 CPUs"):
        plan_cpus(sweep(per_model=300), 2)
    with pytest.raises(InputError, match=r"workers\.gpus: 2 workers with 1 GPUs each need 2, 0"):
        plan_cpus(sweep(per_model=2, gpus=1), 8)
    plan_cpus(sweep(per_model=2, gpus=0.5), 8, 1)
