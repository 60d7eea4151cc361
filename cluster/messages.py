"""Messages between driver, trials and workers, and the log lines of workers among them.

A worker keeps its log lines until its next rung is done and sends them with the row; the driver
writes them to the run's log with their original times. Lines of a rung in which the worker died are
lost; the driver logs its death. Nothing heavy is imported here, because trials import this module.

Among the messages are the versions of Python and of the libraries that decide predictions.
Predictions of two versions of a library differ in their last digits, and then a program that one
node has found can't be verified on another. So every worker compares its own versions with those of
the driver.
"""

import logging
import platform
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kilobit.search.records import RungRecord
from kilobit.search.schedulers.racing import Incumbent

_LOG = logging.getLogger("kilobit")
# Libraries that decide predictions, programs and their decoding.
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "zstandard", "brotli")


@dataclass(frozen=True)
class Worker:
    """A worker of the pool.

    Attributes:
        name: of its actor.
        model: label of the base model that it holds.
        placement: id of its placement group (hex), None where it has none.
    """

    name: str
    model: str
    placement: str | None = field(default=None, compare=False)


class BaseModelChangedError(RuntimeError):
    """The weights of the base model have changed; later results could not be trusted."""


class PoolError(RuntimeError):
    """The workers could not be started."""


class StoppedError(RuntimeError):
    """The run had to stop: its ledger can't be written, or a newer attempt has begun."""


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
        placement: the placement group of its ranks; a worker of one rank can do without.
        log_level: lowest level that it logs.
        early: whether it is started before its run has begun.
    """

    sweep: str
    sweep_folder: str
    run_folder: str
    model: str
    worker: str
    attempt: int
    versions: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 1.0
    placement: Any = None
    log_level: int = logging.INFO
    early: bool = False


@dataclass(frozen=True)
class Notice:
    """Message of the driver to a worker on its candidates; it replaces the one before.

    A worker is told of a candidate's next rung before the candidate's trial asks it to run it. The
    two calls come from different processes and may arrive in any order, so the worker waits for the
    notice: it then knows every decision that was made before.

    Attributes:
        number: counts the notices of a worker.
        expected: the next rung of each of its candidates, by candidate id.
        more: whether more candidates may come before these have run.
        incumbents: the programs to beat by rung and rungs left, by increasing length.
    """

    number: int = 0
    expected: Mapping[str, int] = field(default_factory=dict)
    more: bool = True
    incumbents: Mapping[tuple[int, int], Sequence[Incumbent]] = field(default_factory=dict)

    def is_complete(self, waiting: Mapping[str, int]) -> bool:
        """Return whether candidates that wait to run their rungs are all that are expected."""
        known = all(self.expected.get(name, -1) >= rung for name, rung in waiting.items())
        return known and not self.more and self.expected.keys() <= waiting.keys()


Line = tuple[int, float, str]
"""Level, seconds since 1970, and text."""


@dataclass(frozen=True)
class RungReply:
    """Reply of a worker that was asked to run a candidate at a rung.

    Attributes:
        record: the result.
        together: results of every candidate of the same batch, so that the driver decides them in
            the order of their proposals whichever arrives first.
        worker: name of the worker.
        log: log lines of the worker since its last reply.
    """

    record: RungRecord
    together: tuple[RungRecord, ...]
    worker: str = ""
    log: Sequence[Line] = ()


_MOST_LINES, _MOST_CHARACTERS = 200, 2000


class KeptLog(logging.Handler):
    """Log handler that keeps the latest lines of this process."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[Line] = deque(maxlen=_MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        text = self.format(record)[:_MOST_CHARACTERS]
        self._lines.append((record.levelno, record.created, text))

    def take(self) -> list[Line]:
        """Return the lines kept since the last call, and forget them."""
        self.acquire()
        try:
            taken = list(self._lines)
            self._lines.clear()
        finally:
            self.release()
        return taken


def last_line(error: BaseException) -> str:
    """Return the line of an error that says what happened, without a traceback before it."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return lines[-1] if lines else type(error).__name__


def keep_log(level: int) -> KeptLog:
    """Keep log lines of this process: kilobit's from `level` on, of libraries from warnings on."""
    kept = KeptLog()
    logging.captureWarnings(capture=True)
    logging.getLogger().addHandler(kept)
    _LOG.setLevel(level)
    return kept


def relay(worker: str, lines: Sequence[Line]) -> None:
    """Write lines of a worker to this process's log, with their own times."""
    for level, created, text in lines:
        if _LOG.isEnabledFor(level):
            about = {"levelno": level, "levelname": logging.getLevelName(level)}
            record = logging.makeLogRecord({"name": _LOG.name, "msg": f"{worker}: {text}", **about})
            record.created = created
            _LOG.handle(record)


def library_versions() -> dict[str, str]:
    """Return this node's versions of Python and of the libraries in `LIBRARIES`."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def differences(there: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Return a text for each library that has another version than is wanted."""
    return [
        f"{name} {there.get(name)} instead of {version}"
        for name, version in wanted.items()
        if there.get(name) != version
    ]


def check_versions(of_the_driver: Mapping[str, str]) -> None:
    """Compare this node's libraries with the driver's.

    Raises:
        ValueError: naming node and versions, if they differ.
    """
    differing = differences(library_versions(), of_the_driver)
    if differing:
        raise ValueError(
            f"node {platform.node()} has {', '.join(differing)}: install the driver's versions "
            "there (pip install -c constraints.txt)"
        )
