"""Workers and ranks of a sweep, and the check that they fit on the available resources."""

from collections.abc import Mapping

from kilobit.cluster.messages import Worker
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.search.settings import InputError

# CPUs that a trial reserves; it only waits for messages.
TRIAL_CPUS = 0.01


def workers_of(sweep: Sweep) -> list[Worker]:
    """Return the workers of a sweep."""
    return [
        Worker(f"{model.label}-{i}", model.label)
        for model in sweep.base_models
        for i in range(sweep.workers.per_model)
    ]


def ranks_of(sweep: Sweep, cpus: float) -> ShardsConfig:
    """Return the ranks of a worker with the CPUs and GPUs of each; `cpus` is the default."""
    shards = sweep.workers.shards
    given = (shards.cpus_per_rank, shards.gpus_per_rank)
    amounts = zip(given, (cpus, sweep.workers.gpus), strict=True)
    own = [default if amount is None else amount for amount, default in amounts]
    return shards.model_copy(update={"cpus_per_rank": own[0], "gpus_per_rank": own[1]})


def cpus_of(sweep: Sweep) -> float:
    """Return the CPUs that each rank of a worker reserves on a cluster that may grow."""
    if sweep.workers.cpus is not None:
        return sweep.workers.cpus
    # Each slot of the worker has a trial that reserves CPUs too.
    return max(TRIAL_CPUS, sweep.workers.threads - sweep.workers.slots * TRIAL_CPUS)


def cpus_here(sweep: Sweep, resources: Mapping[str, float]) -> float:
    """Return the CPUs that each rank of a worker reserves of the given resources.

    Raises:
        InputError: if the workers do not fit.
    """
    plan_gpus(sweep, resources.get("GPU", 0.0))
    return plan_cpus(sweep, resources.get("CPU", 0.0))


def plan_cpus(sweep: Sweep, available: float) -> float:
    """Return the CPUs that each worker reserves, or each rank of it if it has several.

    Raises:
        InputError: if the workers do not fit into `available` CPUs.
    """
    num_workers = sweep.workers.per_model * len(sweep.base_models)
    ranks = num_workers * sweep.workers.shards.world_size
    what = f"{num_workers} workers" if ranks == num_workers else f"{ranks} ranks of workers"
    room = available - num_workers * sweep.workers.slots * TRIAL_CPUS
    if sweep.workers.cpus is None:
        # Workers take turns on the cores where there are more workers than cores.
        share = int(1000 * room / ranks) / 1000
        if share <= 0:
            raise InputError(f"workers: {what} are too many for {available:g} CPUs")
        return min(float(sweep.workers.threads), share)
    if sweep.workers.cpus * ranks > room:
        raise InputError(
            f"workers.cpus: {what} with {sweep.workers.cpus} CPUs each need "
            f"{sweep.workers.cpus * ranks:g} CPUs, {room:g} are available"
        )
    return sweep.workers.cpus


def plan_gpus(sweep: Sweep, available: float) -> None:
    """Check that the workers fit on `available` GPUs.

    Raises:
        InputError: if they do not.
    """
    num_workers = sweep.workers.per_model * len(sweep.base_models)
    ranks = num_workers * sweep.workers.shards.world_size
    what = f"{num_workers} workers" if ranks == num_workers else f"{ranks} ranks of workers"
    if sweep.workers.gpus * ranks > available:
        raise InputError(
            f"workers.gpus: {what} with {sweep.workers.gpus:g} GPUs each need "
            f"{sweep.workers.gpus * ranks:g}, {available:g} are available"
        )
