"""Which workers a sweep asks for, and whether they fit on what is there."""

from cluster.messages import Worker
from search.sweep import Sweep, SweepError

# What a trial reserves; it only waits for messages.
TRIAL_CPUS = 0.01


def workers_of(sweep: Sweep) -> list[Worker]:
    """Return the workers that a sweep asks for."""
    return [
        Worker(f"{model.label}-{i}", model.label)
        for model in sweep.base_models
        for i in range(sweep.workers.per_model)
    ]


def plan_cpus(sweep: Sweep, available: float) -> float:
    """Return the CPUs that each worker reserves.

    Raises:
        SweepError: if the workers do not fit into `available` CPUs.
    """
    num_workers = sweep.workers.per_model * len(sweep.base_models)
    room = available - num_workers * sweep.workers.places * TRIAL_CPUS
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


def plan_gpus(sweep: Sweep, available: float) -> None:
    """Check that the workers fit on `available` GPUs.

    Raises:
        SweepError: if they do not.
    """
    num_workers = sweep.workers.per_model * len(sweep.base_models)
    if sweep.workers.gpus * num_workers > available:
        raise SweepError(
            f"workers.gpus: {num_workers} workers with {sweep.workers.gpus:g} GPUs each need "
            f"{sweep.workers.gpus * num_workers:g}, {available:g} are there"
        )
