"""Log lines of workers, sent to the driver with the rows of their rungs for the run's log.

A worker keeps its lines until its next rung is done; the driver writes them with their original
times. Lines of a rung in which the worker died are lost; the driver logs its death. Nothing heavy
is imported here, because trials import this module.
"""

import logging
from collections import deque
from collections.abc import Sequence

Line = tuple[int, float, str]
"""Level, seconds since 1970, and text."""

_LOG = logging.getLogger("kilobit")
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
