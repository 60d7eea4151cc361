"""The evaluator pool: Ray actors that each load one base model once and keep it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from cluster.evaluator import Evaluator
from cluster.messages import EvaluatorSetup, Worker
from search.sweep import Sweep, SweepError

# A worker that dies is started again and repeats the rung it was in; a candidate that kills its
# worker this often is given up.
_MAX_RETRIES = 2
# What a trial reserves; it only waits for messages.
TRIAL_CPUS = 0.01


class PoolError(RuntimeError):
    """A worker could not be started."""


def plan_cpus(sweep: Sweep, available: float) -> float:
    """Return the CPUs that each worker reserves.

    Raises:
        SweepError: if the workers do not fit into `available` CPUs.
    """
    num_workers = sweep.workers.per_model * len(sweep.base_models)
    room = available - num_workers * TRIAL_CPUS
    if sweep.workers.cpus is None:
        # Workers take turns on the cores where there are more workers than cores.
        share = int(1000 * room / num_workers) / 1000
        if share <= 0:
            raise SweepError(f"workers: {num_workers} workers are too many for {available:g} CPUs")
        return min(float(sweep.workers.threads), share)
    if sweep.workers.cpus * num_workers > room:
        raise SweepError(
            f"workers.cpus: {num_workers} workers with {sweep.workers.cpus} CPUs each need "
            f"{sweep.workers.cpus * num_workers:g} of {room:g} CPUs that are there"
        )
    return sweep.workers.cpus


def start_pool(
    sweep: Sweep,
    sweep_folder: Path,
    run_folder: Path,
    attempt: int,
    on_ready: Callable[[Worker], None],
) -> list[Any]:
    """Start all workers as named actors, wait until each has loaded its model, and return them.

    An actor ends when nobody holds its handle any more, so the caller keeps what is returned.

    Raises:
        SweepError: if the cluster has too few CPUs or GPUs.
        PoolError: if a worker can't load its model.
    """
    resources = ray.cluster_resources()
    num_workers = sweep.workers.per_model * len(sweep.base_models)
    cpus = plan_cpus(sweep, resources.get("CPU", 0.0))
    gpus = resources.get("GPU", 0.0)
    if sweep.workers.gpus * num_workers > gpus:
        raise SweepError(
            f"workers.gpus: {num_workers} workers with {sweep.workers.gpus:g} GPUs each need "
            f"{sweep.workers.gpus * num_workers:g}, the cluster has {gpus:g}"
        )
    actor_class: Any = ray.remote(Evaluator)
    handles: list[Any] = []
    waiting: dict[Any, Worker] = {}
    for worker in workers_of(sweep):
        setup = EvaluatorSetup(
            sweep=sweep.model_dump_json(),
            sweep_folder=str(sweep_folder),
            run_folder=str(run_folder),
            model=worker.model,
            worker=worker.name,
            attempt=attempt,
        )
        handle = actor_class.options(
            name=worker.name,
            num_cpus=cpus,
            num_gpus=sweep.workers.gpus,
            max_restarts=-1,
            max_task_retries=_MAX_RETRIES,
        ).remote(setup)
        handles.append(handle)
        waiting[handle.ready.remote()] = worker
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        worker = waiting.pop(done[0])
        try:
            ray.get(done[0])
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise PoolError(
                f"worker {worker.name} could not load {worker.model}: {cause}"
            ) from error
        on_ready(worker)
    return handles


def workers_of(sweep: Sweep) -> list[Worker]:
    """Return the workers that a sweep asks for."""
    return [
        Worker(f"{model.label}-{i}", model.label)
        for model in sweep.base_models
        for i in range(sweep.workers.per_model)
    ]
