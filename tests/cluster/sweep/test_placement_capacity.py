"""What the workers of a sweep need of this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.sweep.placement import cpus_here
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.cluster.sweep.workers import ModelWorkers, Workers
from kilobit.search.settings import InputError


@pytest.fixture
def sweep(write_sweep: Callable[..., Path]) -> Callable[..., Sweep]:
    return lambda **workers: load_sweep(write_sweep(workers=workers))


def plan_cpus(sweep: Sweep, cpus: float, gpus: float = 0) -> float:
    return cpus_here(sweep.workers_by_model, cpus, gpus)["llama"]


def of(common: dict[str, Any], **models: dict[str, Any]) -> dict[str, Workers]:
    base = Workers.model_validate(common)
    return {name: base.over(ModelWorkers.model_validate(own)) for name, own in models.items()}


def test_workers_share_the_cpus_that_are_there(sweep: Callable[..., Sweep]) -> None:
    assert plan_cpus(sweep(per_model=1), 8) == 1
    assert plan_cpus(sweep(per_model=1, threads=4), 8) == 4
    share = plan_cpus(sweep(per_model=3), 2)
    assert share > 0.6
    assert 3 * share <= 2
    found = cpus_here(of({}, a={"cpus": 1.5}, b={"per_model": 2}), 2, 0)
    assert found["a"] == 1.5
    assert found["a"] + 2 * found["b"] <= 2


def test_more_than_there_is_is_refused(sweep: Callable[..., Sweep]) -> None:
    with pytest.raises(InputError, match=r"workers\.cpus: 3 workers of llama with 1 CPUs each nee"):
        plan_cpus(sweep(per_model=3, cpus=1), 2)
    with pytest.raises(InputError, match="3000 workers are too many for 2 CPUs"):
        plan_cpus(sweep(per_model=3000), 2)
    match = r"workers\.gpus: 2 workers of llama with 1 GPUs each need 2, 0"
    with pytest.raises(InputError, match=match):
        plan_cpus(sweep(per_model=2, gpus=1), 8)
    plan_cpus(sweep(per_model=2, gpus=0.5), 8, 1)


def test_only_what_a_model_needs_alone_has_to_be_there() -> None:
    models: dict[str, dict[str, Any]] = {name: {} for name in "abc"}
    assert cpus_here(of({"gpus": 1}, **models), 8, 1).keys() == models.keys()
    assert cpus_here(of({"cpus": 1.9}, **models), 2, 0) == dict.fromkeys("abc", 1.9)
    extra = {"per_model": 2, "min_per_model": 1, "gpus": 1}
    cpus_here(of(extra, a={}), 8, 1)
    with pytest.raises(InputError, match="2 workers of b with 1 GPUs each need 2, 1 are"):
        cpus_here(of(extra, a={}, b={"min_per_model": 2}), 8, 1)


def test_what_ranks_reserve_for_themselves_counts() -> None:
    ranks = {"shards": {"world_size": 2, "gpus_per_rank": 1, "cpus_per_rank": 0.5}}
    with pytest.raises(InputError, match="2 ranks of workers of a with 1 GPUs each need 2, 1 are"):
        cpus_here(of({}, a=ranks), 8, 1)
    with pytest.raises(InputError, match=r"workers\.cpus: 2 ranks of workers of a with 0\.5 CPUs"):
        cpus_here(of({}, a=ranks), 0.9, 2)


@pytest.mark.parametrize("own", [{"resources": {"disk": 1.0}}, {"node_labels": {"disk": "fast"}}])
def test_what_only_a_cluster_has_is_refused_here(own: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"workers\.{next(iter(own))}: a needs disk, which nodes"):
        cpus_here(of({}, a=own), 8, 0)
