"""Messages between driver, trials and workers. Light: a trial's process imports no torch."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search.rungs import Rung


@dataclass(frozen=True)
class Worker:
    """A worker of the pool.

    Attributes:
        name: of its actor.
        model: label of the base model that it holds.
        room: id of its placement group (hex), None where it has none.
    """

    name: str
    model: str
    room: str | None = None


class BaseModelChangedError(RuntimeError):
    """The weights of the base model have changed; later results could not be trusted."""


@dataclass(frozen=True)
class EvaluatorSetup:
    """Settings of an evaluator, sent to its worker as a message.

    Attributes:
        sweep: the sweep as JSON.
        sweep_folder: where relative paths of the sweep start.
        run_folder: the run, with its ledger.
        model: label of the base model to load.
        worker: name of this worker in the ledger.
        attempt: number of this attempt at the run.
        versions: of the driver's libraries; the worker's have to be equal.
        cpus: CPUs that each rank of the worker reserves.
        room: the placement group of its ranks; a worker of one rank can do without.
        log_level: lowest level that it logs.
    """

    sweep: str
    sweep_folder: str
    run_folder: str
    model: str
    worker: str
    attempt: int
    versions: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 1.0
    room: Any = None
    log_level: int = logging.INFO


def rung_part(candidate_id: str, rung: Rung) -> str:
    """Return the name of the ledger parts of a candidate at a rung."""
    return f"{candidate_id}-r{rung.index}"


MESSAGE_KEYS = (
    "candidate",
    "rung",
    "score",
    "program_bits",
    "payload_bits",
    "num_examples",
    "num_generated",
    "against",
    "gap",
    "verdict",
    "left",
    "error",
    "seconds",
)


def message_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a rung's row that a decision needs."""
    return {key: row.get(key) for key in MESSAGE_KEYS}
