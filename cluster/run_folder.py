"""The folder of a run: where it is, what it holds, and who may begin one there.

RUN/run.json      what was asked for: sweep, command, versions, attempts
RUN/ledger/       the tables
RUN/states/       adapters between rungs
RUN/front.png     the picture of the front
RUN/run.log       one line an event
"""

import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluators.ledger import Ledger, write_whole
from search.sweep import Sweep, SweepError

_PACKAGES = ("ray", "torch", "transformers", "peft", "pyarrow", "zstandard", "brotli", "sacrebleu")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    path: Path
    sweep: Sweep
    sweep_folder: Path
    attempt: int

    @property
    def ledger(self) -> Ledger:
        """Return the run's ledger."""
        return Ledger(self.path / "ledger")


def create_run(sweep: Sweep, sweep_file: Path, out: Path | None) -> RunFolder:
    """Begin a run in a new or empty folder.

    Raises:
        SweepError: if the folder holds another run or other files, or can't be written.
    """
    path = (out or sweep.out or Path("runs") / sweep.name).absolute()
    run = RunFolder(path, sweep, sweep_file.absolute().parent, 1)
    try:
        if (path / "run.json").exists():
            raise SweepError(
                f"{path} holds another run: go on with it by `resume {path}`, or choose another "
                f"folder with --out"
            )
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise SweepError(f"{path} is not empty and no run: choose another folder with --out")
        _write(run, {"created_at": _now(), "sweep_file": str(sweep_file.absolute())})
    except SweepError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SweepError(f"{str(path)!r} can't be written: {reason}") from error
    return run


def discard_run(run: RunFolder) -> None:
    """Take a run away that never scored anything, so that its folder can be used again."""
    if run.attempt > 1 or run.ledger.rows("rungs", ["candidate"]):
        return
    for name in ("ledger", "states", ".tune"):
        shutil.rmtree(run.path / name, ignore_errors=True)
    for name in ("run.log", "run.json"):
        (run.path / name).unlink(missing_ok=True)
    with suppress(OSError):
        run.path.rmdir()


def reopen_run(path: Path) -> RunFolder:
    """Begin the next attempt at an existing run.

    Raises:
        SweepError: if there is no readable run.
    """
    run, manifest = _read(path)
    run = RunFolder(run.path, run.sweep, run.sweep_folder, run.attempt + 1)
    try:
        _write(run, manifest)
    except OSError as error:
        raise SweepError(f"{path} can't be written: {error.strerror or error}") from error
    return run


def open_run(path: Path) -> RunFolder:
    """Return an existing run to read from.

    Raises:
        SweepError: if there is no readable run.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    file = path / "run.json"
    try:
        manifest = json.loads(file.read_text("utf-8"))
        sweep = Sweep.model_validate_json(json.dumps(manifest["sweep"]), strict=True)
        attempt, folder = len(manifest["attempts"]), Path(manifest["sweep_folder"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SweepError(f"{path} holds no run: {file.name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{file} can't be read: {str(error).splitlines()[0]}") from error
    return RunFolder(path.absolute(), sweep, folder, attempt), manifest


def _write(run: RunFolder, manifest: dict[str, Any]) -> None:
    attempt = {"started_at": _now(), "command": sys.argv, "host": platform.node()}
    attempts = [*manifest.get("attempts", []), attempt]
    content = {
        **manifest,
        "sweep": run.sweep.model_dump(mode="json"),
        "sweep_folder": str(run.sweep_folder),
        "attempts": attempts,
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    }
    write_whole(run.path / "run.json", json.dumps(content, indent=1).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
