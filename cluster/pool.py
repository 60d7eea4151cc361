"""The evaluator pool: Ray actors that each load one base model once and keep it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from cluster.capacity import plan_cpus, plan_gpus, workers_of
from cluster.evaluator import Evaluator
from cluster.messages import EvaluatorSetup, Worker
from evaluators.storage import Place
from search.sweep import Sweep

# Besides the calls of its pack a worker answers that it is ready, and what prompts cost.
_OTHER_CALLS = 2


class PoolError(RuntimeError):
    """A worker could not be started."""


def start_pool(
    sweep: Sweep,
    sweep_folder: Path,
    run_folder: Place,
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
    cpus = plan_cpus(sweep, resources.get("CPU", 0.0))
    plan_gpus(sweep, resources.get("GPU", 0.0))
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
            cpus=cpus,
        )
        handle = actor_class.options(
            name=worker.name,
            num_cpus=cpus,
            num_gpus=sweep.workers.gpus,
            max_restarts=-1,
            # A worker that dies is started again and repeats the rungs it was in; it knows itself
            # which of them to give up (`cluster.in_hand`).
            max_task_retries=-1,
            max_concurrency=sweep.workers.places + _OTHER_CALLS,
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


def prompt_bits_of(sweep: Sweep) -> Callable[[str, Sequence[str]], list[float]]:
    """Return what tells how many bits prompts take under a model; a worker of it computes that."""
    names = {worker.model: worker.name for worker in reversed(workers_of(sweep))}

    def prompt_bits(model: str, texts: Sequence[str]) -> list[float]:
        worker: Any = ray.get_actor(names[model])
        found: list[float] = ray.get(worker.prompt_bits.remote(list(texts)))
        return found

    return prompt_bits
