import logging
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

from kilobit.cluster import messages
from kilobit.cluster.messages import (
    LIBRARIES,
    KeptLog,
    Notice,
    check_versions,
    keep_log,
    library_versions,
    relay,
)
from kilobit.cluster.runs.log import log_to

LOG = logging.getLogger("kilobit")


def test_a_batch_is_complete_when_all_who_are_expected_wait_and_no_more_can_come() -> None:
    both = {"a": 1, "b": 0}
    assert not Notice().is_complete({"a": 0})
    assert not Notice(1, both).is_complete(both)
    notice = Notice(2, both, more=False)
    assert notice.is_complete(both)
    assert not notice.is_complete({"a": 1})
    # A candidate that begins again below its rung is known; of one further on it was not told yet.
    assert notice.is_complete({"a": 0, "b": 0})
    assert not notice.is_complete({"a": 1, "b": 1})
    assert not notice.is_complete({**both, "c": 0})


@pytest.fixture
def kept() -> KeptLog:
    # As in a worker: nothing of ours has handlers there.
    LOG.handlers, LOG.propagate = [], True
    return keep_log(logging.INFO)


def test_lines_of_a_worker_come_with_their_own_time_and_once(kept: KeptLog, tmp_path: Path) -> None:
    LOG.debug("nobody asked for this")
    LOG.info("holds %s", "small")
    logging.getLogger("some.library").info("nor for this")
    logging.getLogger("some.library").warning("it is late")
    warnings.warn("this goes away", FutureWarning, stacklevel=1)
    lines = [(level, 86_400.5, text) for level, _, text in kept.take()]
    assert kept.take() == []
    log_to(tmp_path, 1, "info")
    relay("small-0", lines)
    shown = (tmp_path / "run.log").read_text().splitlines()
    then = time.strftime("%Y-%m-%d %H:%M", time.localtime(86_400.5))
    assert [line[:16] for line in shown[:3]] == [then] * 3
    assert shown[0].endswith("INFO small-0: holds small")
    assert shown[1].endswith("WARNING small-0: it is late")
    assert "WARNING small-0: " in shown[2]
    assert "FutureWarning: this goes away" in shown[2]


def test_the_level_holds_for_lines_of_workers_too(kept: KeptLog, tmp_path: Path) -> None:
    LOG.info("holds small")
    LOG.error("no")
    lines = kept.take()
    log_to(tmp_path, 1, "warning")
    relay("w", lines)
    assert [line.split(" ", 2)[2] for line in (tmp_path / "run.log").read_text().splitlines()] == [
        "ERROR w: no"
    ]


def test_a_worker_that_says_too_much_says_its_last(kept: KeptLog) -> None:
    for number in range(1000):
        LOG.info("%d %s", number, "x" * 5000)
    lines = kept.take()
    assert len(lines) == 200
    assert lines[-1][2].startswith("999 ")
    assert max(len(text) for *_, text in lines) == 2000


def test_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = library_versions()
    assert set(found) == {"python", *LIBRARIES}
    assert found["torch"] == version("torch")
    monkeypatch.setattr(messages, "LIBRARIES", ("no-such-library",))
    assert library_versions()["no-such-library"] == "missing"


def test_a_node_like_the_driver_passes_and_another_is_named() -> None:
    check_versions(library_versions())
    expected = f"node {platform.node()} has torch {version('torch')} instead of 1.0"
    with pytest.raises(ValueError, match=expected.replace("+", r"\+")):
        check_versions(library_versions() | {"torch": "1.0"})
