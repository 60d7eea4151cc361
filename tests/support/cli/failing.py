"""Commands that have to fail, and what they say."""

from pathlib import Path

import pytest

from kilobit import launch
from kilobit.evaluators.ledger import stored_path


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must end in exit status 2 and return its message."""
    assert launch.main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("kilobit: ")
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) == 1
    return message.removeprefix("kilobit: ")


def line_of(path: Path, text: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    stored_path._store.cache_clear()
    assert launch.main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("kilobit: ")
    assert len(message.strip().splitlines()) == 1
    return message
