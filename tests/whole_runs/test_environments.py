"""Small whole runs in environments that are not the usual ones: homes, terminals, names.

Each has the front of a run in the usual one.

    pytest -m slow tests/whole_runs/test_environments.py
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.support.driver.tiny_sweep import SWEEP

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
KILOBIT = f"{shlex.quote(sys.executable)} {shlex.quote(str(REPOSITORY / 'launch.py'))}"
# Name: variables to set (None: to remove), and what follows the command on the shell's line.
ENVIRONMENTS: dict[str, tuple[dict[str, str | None], str]] = {
    "no HOME": ({"HOME": None}, ""),
    "a HOME that is not there": ({"HOME": "/nonexistent"}, ""),
    "a HOME that can't be written": ({"HOME": "/proc/1"}, ""),
    "caches that can't be written": ({"XDG_CACHE_HOME": "/proc/1", "HF_HOME": "/proc/1/hub"}, ""),
    "a TMPDIR that is not there": ({"TMPDIR": "/nowhere"}, ""),
    "no encoding": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ""),
    "a dumb terminal": ({"TERM": "dumb"}, ""),
    "20 columns": ({"COLUMNS": "20"}, ""),
    "standard output closed": ({}, ">&-"),
    "standard error closed": ({}, "2>&-"),
    "standard input closed": ({}, "<&-"),
    "all three closed": ({}, "<&- >&- 2>&-"),
}
NAMES = ("two words", 'it\'s "quoted"', "größe", "-dash", "$(touch x)", "a\nb", "[red]", "%s{0}")


def kilobit(
    folder: Path, words: str, changes: Mapping[str, str | None] | None = None
) -> tuple[int, str]:
    """Run a command line by a shell in `folder` and return its status and output."""
    environment = {**os.environ, **(changes or {})}
    done = subprocess.run(
        ["bash", "-c", f"{KILOBIT} {words}"],
        cwd=folder,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def front(run: Path) -> list[Any]:
    """Return the lines of a run's front."""
    status, told = kilobit(run.parent, f"front --json {shlex.quote(str(run))}")
    assert status == 0, told
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    return [{key: line[key] for key in ("program", "program_bits", "score")} for line in lines]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sweep file, and with the run `plain` of it."""
    folder = tmp_path_factory.mktemp("environments")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SWEEP), "utf-8")
    status, told = kilobit(folder, "run tiny.yaml --out plain")
    assert status == 0, told
    assert len(front(folder / "plain")) >= 2
    return folder


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_run_is_the_same_in_every_environment(world: Path, name: str) -> None:
    changes, after = ENVIRONMENTS[name]
    out = name.replace(" ", "-")
    status, told = kilobit(world, f"run tiny.yaml --out {shlex.quote(out)} {after}", changes)
    assert "Traceback" not in told, told
    assert status == 0, told
    assert front(world / out) == front(world / "plain")


def test_a_full_standard_output_is_told_and_the_run_can_be_resumed(world: Path) -> None:
    status, told = kilobit(world, "run tiny.yaml --out full > /dev/full")
    assert (status, "No space left on device" in told) == (1, True), told
    status, told = kilobit(world, "run tiny.yaml --out full --continue")
    assert status == 0, told
    assert front(world / "full") == front(world / "plain")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_the_same_in_a_folder_of_any_name(world: Path, name: str) -> None:
    status, told = kilobit(world, f"run tiny.yaml {shlex.quote(f'--out={name}')}")
    assert status == 0, told
    assert front(world / name) == front(world / "plain")
    assert not (world / "x").exists()


def test_a_temporary_folder_with_a_long_name_is_refused_at_once(world: Path) -> None:
    long = world / ("x" * 90)
    long.mkdir()
    began = time.monotonic()
    status, told = kilobit(world, "run tiny.yaml --out long", {"TMPDIR": str(long)})
    assert status in (1, 2)
    assert "is too long for the sockets" in told
    assert time.monotonic() - began < 120
