"""The log of a run: one line per event, in a local file or as objects on a store.

A line has the time, the level (DEBUG, INFO, WARNING, ERROR) and what happened. It includes the
lines of workers (`kilobit.cluster.messages`).

Objects on a store can't be appended to. There the lines of an attempt go to RUN/log/a1.000.log,
which is rewritten as a whole every few seconds while lines arrive; when it has grown large, the
next number follows. A killed run loses the lines of its last seconds, but the results that they
reported are in the ledger.
"""

import atexit
import logging
import threading
from contextlib import suppress

from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.evaluators.ledger.stored_path import StoredPath

WRITE_EVERY_S = 5.0
LEVELS = ("debug", "info", "warning")
_MOST_BYTES = 1 << 18
_LOG = logging.getLogger("kilobit")


def log_to(run: Place, attempt: int, level: str = "info") -> None:
    """Send log records to the log of a run, until the process ends or the next call.

    Args:
        run: the run's folder.
        attempt: number of this attempt at it.
        level: one of `LEVELS`; less severe records are dropped.
    """
    # Don't print errors of logging: a full disk is reported once, by the code that needs the disk.
    logging.raiseExceptions = False
    handler: logging.Handler
    if isinstance(run, StoredPath):
        handler = StoredLog(run / "log", attempt)
    else:
        handler = logging.FileHandler(run / "run.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _LOG.setLevel(level.upper())
    _LOG.propagate = False
    close_log()
    _LOG.handlers = [handler]


def close_log() -> None:
    """Write the buffered lines of the run's log."""
    for handler in _LOG.handlers:
        if isinstance(handler, StoredLog):
            handler.close()


class StoredLog(logging.Handler):
    """Log handler that writes the lines of one attempt as objects in a folder of a store."""

    def __init__(self, folder: StoredPath, attempt: int, every_s: float = WRITE_EVERY_S) -> None:
        super().__init__()
        self._folder, self._attempt, self._every_s = folder, attempt, every_s
        self._lines: list[bytes] = []
        self._size, self._number, self._changed = 0, 0, False
        self._writing, self._stop = threading.Lock(), threading.Event()
        self._writer = threading.Thread(target=self._write_often, name="run log", daemon=True)
        self._writer.start()
        # Write the rest before the interpreter exits, which stops daemon threads without notice.
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        """Buffer a line; it is written within seconds."""
        line = self.format(record).encode() + b"\n"
        self._lines.append(line)
        self._size += len(line)
        self._changed = True

    def flush(self) -> None:
        """Write the new lines; a failing store is ignored here and reported by its other users."""
        with self._writing:
            self.acquire()
            try:
                changed, self._changed = self._changed, False
                content, number = b"".join(self._lines), self._number
                if self._size > _MOST_BYTES:
                    self._lines, self._size, self._number = [], 0, number + 1
            finally:
                self.release()
            if changed:
                with suppress(OSError):
                    write_whole(self._folder / f"a{self._attempt}.{number:03}.log", content)

    def close(self) -> None:
        """Write the remaining lines and stop the writer thread."""
        atexit.unregister(self.close)
        if not self._stop.is_set():
            self._stop.set()
            self.flush()
        super().close()

    def _write_often(self) -> None:
        while not self._stop.wait(self._every_s):
            self.flush()
