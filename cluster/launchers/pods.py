"""How many pods the workers of a sweep need, and what is in each."""

import math
from dataclasses import dataclass

from cluster.capacity import TRIAL_CPUS, cpus_of, ranks_of
from search.kubernetes import KubernetesConfig
from search.sweep import Sweep, SweepError

# Sums of fractions such as 0.1 are not exact.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Pods:
    """Equal pods.

    Attributes:
        count: how many.
        least: how many of them a search needs to begin.
        ranks: the most ranks that are in one of them, of one worker or of several.
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

    The ranks of a worker are together in one pod as far as a machine has room for them, and evenly
    in several otherwise. Workers that take a part of a GPU share one.

    Raises:
        SweepError: if a rank needs more than a machine has.
    """
    each = ranks_of(sweep, cpus_of(sweep))
    cpus, gpus = each.cpus_per_rank or 0.0, each.gpus_per_rank or 0.0
    # Trials go where workers are, because the head offers Ray no CPUs.
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
    """Return how many times `each` is in `room`."""
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
