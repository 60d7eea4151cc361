"""The log of a run: levels, and the lines of workers with their own times."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilobit.cluster.runs.log import LEVELS, StoredLog, close_log, log_to
from kilobit.evaluators.ledger.stored_path import StoredPath

LOG = logging.getLogger("kilobit")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = LOG.level, LOG.propagate, list(LOG.handlers), list(logging.getLogger().handlers)
    yield
    close_log()
    LOG.level, LOG.propagate, LOG.handlers, logging.getLogger().handlers = before
    LOG.manager._clear_cache()
    logging.captureWarnings(capture=False)


def say(run: Path, level: str) -> list[str]:
    log_to(run, 1, level)
    for name in (*LEVELS, "error"):
        LOG.log(getattr(logging, name.upper()), "this is %s", name)
    return [line.split(" ", 2)[2] for line in (run / "run.log").read_text().splitlines()]


def test_a_level_leaves_out_what_matters_less(tmp_path: Path) -> None:
    for level, first in (("debug", 0), ("info", 1), ("warning", 2)):
        run = tmp_path / level
        run.mkdir()
        words = ["debug", "info", "warning", "error"][first:]
        assert say(run, level) == [f"{word.upper()} this is {word}" for word in words]


def test_the_log_is_on_the_store_before_the_run_ends_and_begins_anew_when_large(
    folder: StoredPath,
) -> None:
    handler = StoredLog(folder / "log", 2, every_s=0.01)

    def say(text: str) -> None:
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))

    say("one")
    while not (folder / "log" / "a2.000.log").exists():
        time.sleep(0.01)
    say("x" * 300_000)
    while (folder / "log" / "a2.000.log").stat().st_size < 300_000:
        time.sleep(0.01)
    say("last")
    handler.close()
    lines = b"".join(path.read_bytes() for path in sorted((folder / "log").glob("*")))
    assert lines.decode().split("\n") == ["one", "x" * 300_000, "last", ""]
    assert len(list((folder / "log").glob("*"))) == 2
