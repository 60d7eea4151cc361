"""What workers have to say goes into the run's log: it travels with the rows of their rungs.

A worker keeps its lines until its next rung is done; the driver writes them with the time at which
they were said. What a worker said in the rung that it died in is lost; the driver tells of its
death. Nothing heavy is imported here, because trials load what imports this.
"""

import logging
from collections import deque
from collections.abc import Sequence

Line = tuple[int, float, str]
"""Level, seconds since 1970, and text."""

_LOG = logging.getLogger("kilobit")
_MOST_LINES, _MOST_CHARACTERS = 200, 2000


class KeptLog(logging.Handler):
    """Lines of this process; of very many the last are kept."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[Line] = deque(maxlen=_MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        text = self.format(record)[:_MOST_CHARACTERS]
        self._lines.append((record.levelno, record.created, text))

    def take(self) -> list[Line]:
        """Return the lines since the last call."""
        self.acquire()
        try:
            taken = list(self._lines)
            self._lines.clear()
        finally:
            self.release()
        return taken


def keep_log(level: int) -> KeptLog:
    """Keep what this process logs: ours from `level` on, warnings and worse of libraries."""
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
