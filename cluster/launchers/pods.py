"""Number and size of the pods that the workers of a sweep need."""

import math
from dataclasses import dataclass

from cluster.capacity import TRIAL_CPUS, cpus_of, ranks_of
from search.kubernetes import KubernetesConfig
from search.sweep import Sweep, SweepError

# Sums of fractions such as 0.1 are not exact.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Pods:
    """A set of equal pods.

    Attributes:
        count: number of pods.
        least: number of pods that a search needs to begin.
        ranks: the most ranks in one pod, of one worker or of several.
        cpus: whole CPUs of each, for Kubernetes and for Ray.
        gpus: whole GPUs of each.
    """

    count: int
    least: int
    ranks: int
    cpus: int
    gpus: int


def pods_of(sweep: Sweep, config: KubernetesConfig) -> Pods:
    """Return the pods of a sweep's workers: all have the same shape, because all workers have.

    The ranks of a worker share one pod if a machine has room for them, and are spread evenly over
    several otherwise. Workers that each use a fraction of a GPU share a pod with one GPU.

    Raises:
        SweepError: if a rank needs more than a machine has.
    """
    each = ranks_of(sweep, cpus_of(sweep))
    cpus, gpus = each.cpus_per_rank or 0.0, each.gpus_per_rank or 0.0
    # Trials run in the pods of workers, because the head offers Ray no CPUs.
    trials = sweep.workers.places * TRIAL_CPUS
    most = _most(gpus, config.gpus_per_node, "workers.gpus", "gpus_per_node")
    if config.cpus_per_node is not None:
        room = config.cpus_per_node - trials
        most = min(most, _most(cpus, room, "workers.cpus", "cpus_per_node"))
    parts = math.ceil(each.world_size / most)
    ranks = math.ceil(each.world_size / parts)
    together = 1
    if each.world_size == 1 and 0 < gpus < 1:
        together = min(_floor(1 / gpus), sweep.workers.per_model * len(sweep.base_models))
        if config.cpus_per_node is not None:
            together = max(1, min(together, _floor(config.cpus_per_node / (cpus + trials))))

    def number(per_model: int) -> int:
        return parts * math.ceil(per_model * len(sweep.base_models) / together)

    return Pods(
        count=number(sweep.workers.per_model),
        least=number(sweep.workers.least),
        ranks=ranks * together,
        cpus=max(1, _ceil(together * (ranks * cpus + trials))),
        gpus=_ceil(together * ranks * gpus),
    )


def _most(each: float, room: float, field: str, limit: str) -> int:
    """Return how many times `each` fits into `room`."""
    if not each:
        return 1 << 30
    found = _floor(room / each)
    if found < 1:
        raise SweepError(
            f"{field}: a rank needs {each:g}, and a machine has no more than {room:g} for it "
            f"(kubernetes.{limit})"
        )
    return found


def _floor(number: float) -> int:
    return math.floor(number + _ROUNDING)


def _ceil(number: float) -> int:
    return math.ceil(number - _ROUNDING)
