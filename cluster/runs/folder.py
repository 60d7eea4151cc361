"""The folder of a run: creating, locking, reading and discarding it.

RUN/run.json      the manifest: sweep, command, versions, attempts
RUN/ledger/       the tables, and the claims of attempts
RUN/states/       adapter checkpoints between rungs
RUN/programs/     the programs of the front, MODEL-CANDIDATE each
RUN/cache/        outputs that were generated before
RUN/in_hand/      crash logs: what a worker was doing when it died
RUN/tensorboard/  event files, and RUN/wandb, if the sweep names these trackers
RUN/front.png     the picture of the front
RUN/run.log       one line per event

A process has to hold the run's lock to write there: `create_run` and `reopen_run` claim an attempt
and release it at the end. A folder that can't be used raises `InputError`, a lock that another
process holds `LockedError`.
"""

import json
import os
import platform
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kilobit.cluster.requests import wrong_input
from kilobit.cluster.runs.access import (
    check_nobody_else_writes,
    check_reachable,
    check_there,
    make_folder,
    no_run_error,
)
from kilobit.cluster.runs.lock import lock_holder, lock_run
from kilobit.cluster.sweep.recorded import proposer_of, recorded_sweep
from kilobit.cluster.sweep.sweep import Sweep, change_budget
from kilobit.evaluators.cpus_and_memory import cpus
from kilobit.evaluators.ledger.fencing import check_latest, latest_attempt
from kilobit.evaluators.ledger.storage import Place, read_regular, remove, write_whole
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.candidate import GIVEN, MODEL_FREE
from kilobit.search.search import REMOVED_KINDS
from kilobit.search.settings import InputError, reason_of, to_copy

if TYPE_CHECKING:
    from kilobit.evaluators.ledger.ledger import Ledger

# pyarrow is imported where a ledger is read or begun, so that a folder is refused without it.
_PACKAGES = ("ray", "torch", "transformers", "peft", "pyarrow", "zstandard", "brotli", "sacrebleu")
_MAX_MANIFEST_BYTES = 1 << 26
# Files left by a run that was killed as it began: its claim, an empty list, a temporary file.
_BEGUN = re.compile(
    r"ledger|ledger/attempts|ledger/accepted|ledger/attempts/(\d+\.(json|alive|ended)|\..+\.tmp)"
    r"|ledger/accepted/(accepted\.a\d+\.k0\.json|\..+\.tmp)|\.run\.json\..+\.tmp"
)
# Folders of a run that may be deleted while nothing has been scored; older versions made
# `incumbents` and `places`.
_MADE = (
    "ledger", "states", "incumbents", "in_hand", "places", "log", "tensorboard", "wandb", ".tune",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """A run on disk.

    Attributes:
        path: where it is.
        sweep: the sweep that was asked for.
        sweep_folder: where relative paths of the sweep start.
        attempt: the attempt of this process if it holds the lock, else the latest one.
        locked: this process holds the lock and may write.
        left_out: parts of the ledger that were found damaged when this attempt began.
        made: this attempt created the folder.
        manifest: content of `run.json`: its sweep, commands, versions and attempts.
    """

    path: Place
    sweep: Sweep
    sweep_folder: Path
    attempt: int
    locked: bool = False
    left_out: tuple[str, ...] = ()
    made: bool = False
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def ledger(self) -> "Ledger":
        """Return the run's ledger."""
        from kilobit.evaluators.ledger.ledger import Ledger

        return Ledger(self.path / "ledger", self.attempt if self.locked else None)


def path_of(sweep: Sweep, out: Place | None) -> Place:
    """Return the output folder of a sweep."""
    return (out or sweep.out or Path("runs") / sweep.name).absolute()


def holds_run(sweep: Sweep, out: Place | None) -> bool:
    """Return whether the output folder of a sweep already holds a run.

    Raises:
        InputError: if its store does not answer.
    """
    path = path_of(sweep, out)
    check_reachable(path)
    return (path / "run.json").exists()


@contextmanager
def create_run(sweep: Sweep, sweep_file: Path, out: Place | None) -> Iterator[RunFolder]:
    """Begin a run in a new or empty folder and lock it.

    Raises:
        InputError: if the folder holds another run or other files, or can't be written.
        LockedError: if another process begins a run there at the same moment.
    """
    from kilobit.evaluators.ledger.compaction import begin
    from kilobit.evaluators.ledger.parts import SCHEMA_VERSION

    path = path_of(sweep, out)
    check_reachable(path)
    with ExitStack() as stack:
        with _written(path):
            made = not path.exists()
            _check_free(path, sweep)
            attempt = stack.enter_context(lock_run(path / "ledger"))
            # Another process may have begun and ended a run there between the check and the claim.
            _check_free(path, sweep)
            begin(path / "ledger", attempt)
            file = sweep_file.absolute()
            about = {
                "id": uuid.uuid4().hex,
                "created_at": _now(),
                "sweep_file": str(file),
                "ledger_schema": SCHEMA_VERSION,
            }
            run = RunFolder(path, sweep, file.parent, attempt, True, made=made, manifest=about)
            _write(run, ())
        yield run


def check_free(sweep: Sweep, out: Place | None) -> None:
    """Check that a new run may begin in the output folder of a sweep, if that exists.

    Raises:
        InputError: if the folder holds another run or other files, or can't be written.
    """
    path = path_of(sweep, out)
    check_reachable(path)
    with _written(path):
        if path.exists():
            _check_free(path, sweep)


@contextmanager
def _written(path: Place) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)!r} can't be written: {reason}") from error


def _check_free(path: Place, sweep: Sweep) -> None:
    if (path / "run.json").exists():
        raise InputError(_whose(path, sweep))
    if isinstance(path, Path):
        make_folder(path)
        check_nobody_else_writes(path)
    names = (file.relative_to(path).as_posix() for file in path.rglob("*"))
    foreign = next((name for name in names if not _BEGUN.fullmatch(name)), None)
    if foreign is not None or (isinstance(path, Path) and (path / "ledger").is_file()):
        raise InputError(
            f"{path} is neither empty nor a run: it holds {foreign or 'ledger'}; choose another "
            "folder with --out"
        )


def _whose(path: Place, sweep: Sweep) -> str:
    """Return the error text for a new run of `sweep` in a folder that already holds a run."""
    try:
        changed = _changed(open_run(path).sweep, sweep)
    except InputError as error:
        return f"{error}; choose another folder with --out"
    what = f"another sweep ({', '.join(changed)} differs)" if changed else "this sweep"
    holder = lock_holder(path / "ledger")
    locked = "" if holder is None else f", locked by {holder}"
    when = "" if holder is None else "once that has ended, "
    return (
        f"{path} holds a run of {what}{locked}: {when}continue it with "
        f"`{to_copy('resume', path)}`, or choose another folder with --out"
    )


def discard_run(run: RunFolder) -> None:
    """Delete a run that has not scored anything, so that its folder can be used again.

    All files in it were made by this attempt, because `create_run` refuses folders with other
    files. A later attempt, or a run with scores, is left as it is.

    Raises:
        SupersededError: if a newer attempt was claimed; the run then belongs to it and stays.
    """
    check_latest(run.path / "ledger", run.attempt)
    if run.attempt > 1 or len(run.ledger.read("rungs", ["candidate"])):
        return
    if isinstance(run.path, StoredPath):
        depth = len(run.path.parts)
        remove([path for path in run.path.rglob("*") if path.parts[depth] in (*_MADE, "run.json")])
        return
    for name in _MADE:
        shutil.rmtree(run.path / name, ignore_errors=True)
    for name in ("run.log", "run.json"):
        (run.path / name).unlink(missing_ok=True)
    if run.made:
        with suppress(OSError):
            run.path.rmdir()


@contextmanager
def reopen_run(
    path: Place, *, take_over: bool = False, overrides: Sequence[str] = ()
) -> Iterator[RunFolder]:
    """Begin the next attempt at an existing run and lock it.

    Args:
        path: the folder of the run.
        take_over: lock it even if another process holds the lock.
        overrides: `budget.key=value` to continue with another budget.

    Raises:
        InputError: if there is no readable run, or an override changes more than the budget.
        LockedError: if another process holds the lock.
        OSError: if it can't be written.
    """
    from kilobit.evaluators.ledger.compaction import begin
    from kilobit.evaluators.ledger.parts import SCHEMA_VERSION

    run = open_run(path)
    if isinstance(run.path, Path):
        check_nobody_else_writes(run.path)
    if run.manifest.get("ledger_schema") != SCHEMA_VERSION:
        raise InputError(
            f"{path} was written by an older version: it can be read, but it can't be resumed"
        )
    change_budget(run.sweep, overrides)
    with lock_run(run.path / "ledger", take_over=take_over) as attempt:
        with wrong_input():
            left_out = begin(run.path / "ledger", attempt)
        # Another attempt may have changed the budget before this one was claimed.
        run = open_run(path)
        sweep = change_budget(run.sweep, overrides)
        run = replace(run, sweep=sweep, attempt=attempt, locked=True, left_out=tuple(left_out))
        _check_enough(run)
        _write(run, overrides)
        _sweep_scratch(run.path)
        yield run


def _check_enough(run: RunFolder) -> None:
    """Check that the budget covers all candidates that were proposed: replay proposes them again.

    Raises:
        InputError: if it does not.
    """
    most = run.sweep.budget.candidates
    if most is None:
        return
    rows = run.ledger.read("candidates", ["position", "family", "operator"]).to_pylist()
    drawn = [one for one in rows if one["family"] not in MODEL_FREE and one["operator"] != GIVEN]
    number = sum(one["position"] is not None for one in drawn)
    if number > most:
        raise InputError(
            f"budget.candidates: {number} candidates have begun, so {number} or more are allowed, "
            f"or null for no limit (found {most}); nothing was changed"
        )


@contextmanager
def continue_run(
    sweep: Sweep, out: Place | None, *, take_over: bool = False
) -> Iterator[RunFolder]:
    """Begin the next attempt at the run of a sweep, with the sweep's current budget.

    Raises:
        InputError: if the folder holds the run of another sweep; see `reopen_run` too.
        LockedError: if another process holds the lock.
        OSError: if it can't be written.
    """
    path = path_of(sweep, out)
    run = open_run(path)
    check_proposer_is_known(run)
    changed = _changed(run.sweep, sweep)
    if changed:
        raise InputError(
            f"{path} holds the run of another sweep: {', '.join(changed)} differs; choose another "
            "folder with --out"
        )
    budget = sweep.budget.model_dump(mode="json")
    overrides = [f"budget.{name}={json.dumps(value)}" for name, value in budget.items()]
    with reopen_run(path, take_over=take_over, overrides=overrides) as reopened:
        yield reopened


def _changed(before: Sweep, sweep: Sweep) -> list[str]:
    old, new = _searched(before), _searched(sweep)
    # Settings that are not given, and that had another default when an old run began.
    for name in ("program_batch_size", "model_free"):
        if name not in sweep.model_fields_set:
            del new[name]
    for name, family in sweep.families.named().items():
        was = old["families"].get(name)
        if was:
            _use_defaults_of_then(new["families"][name], was, family.model_fields_set)
    if "balance" not in sweep.task.model_fields_set:
        for settings in (old["task"], new["task"]):
            settings.pop("balance", None)
    return [name for name in new if new[name] != old[name]]


def _use_defaults_of_then(family: dict[str, Any], was: dict[str, Any], given: set[str]) -> None:
    """Set defaults of a family to those that held when an old run began, where it gives none.

    They were one range for all methods, one rate for both factors, no chat, and no turns in one.
    """
    for key in ("learning_rate", "ratio"):
        if family.get(key, 0) is None:
            family[key] = was[key]
    if family["chat"] is None and was["chat"] == [False] and not was["turns"]:
        family["chat"] = was["chat"]
    if "turns" not in given:
        family["turns"] = was["turns"]


def _searched(sweep: Sweep) -> dict[str, Any]:
    """Return the fields that determine a search: all but its budget and where it runs."""
    return sweep.model_dump(
        mode="json", exclude={"budget", "out", "cache", "slurm", "kubernetes", "trackers"}
    )


def _sweep_scratch(path: Place) -> None:
    """Remove temporary files of dead attempts, except the ledger's, which `begin` removes."""
    if isinstance(path, StoredPath):
        # On an object store no file has a temporary name.
        return
    for folder, names, files in os.walk(path):
        if Path(folder) == path and "ledger" in names:
            names.remove("ledger")
        for name in files:
            if name.startswith(".") and name.endswith(".tmp"):
                (Path(folder) / name).unlink(missing_ok=True)


def check_proposer_is_known(run: RunFolder) -> None:
    """Check that this version has the proposer of a run, so that the search may go on.

    Raises:
        InputError: if it has not.
    """
    kind = proposer_of(run.manifest["sweep"])
    if kind in REMOVED_KINDS:
        raise InputError(
            f"{run.path} can't be resumed: its proposer {kind!r} was removed; it can still be "
            "read, and a new run with another proposer can begin in another folder"
        )


def open_run(path: Place) -> RunFolder:
    """Return an existing run for reading.

    Raises:
        InputError: if there is no readable run.
    """
    file = path / "run.json"
    check_there(path)
    check_reachable(path)
    try:
        manifest = json.loads(read_regular(file, _MAX_MANIFEST_BYTES))
        sweep = recorded_sweep(manifest["sweep"])
        folder = Path(manifest["sweep_folder"])
        attempts = manifest.get("attempts", [])
        if not isinstance(attempts, list) or not all(isinstance(one, dict) for one in attempts):
            raise TypeError("attempts is not a list of objects")
        attempt = latest_attempt(path / "ledger") or len(manifest["attempts"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(no_run_error(path)) from error
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in ("sweep", *problem["loc"]))
        raise InputError(f"{file} can't be read: {field}: {problem['msg']}") from error
    except KeyError as error:
        raise InputError(f"{file} can't be read: {error} is missing") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file} can't be read: {reason_of(error)}") from error
    from kilobit.evaluators.ledger.compaction import check_books

    with wrong_input():
        check_books(path / "ledger")
    return RunFolder(path.absolute(), sweep, folder, attempt, manifest=manifest)


def _write(run: RunFolder, overrides: Sequence[str]) -> None:
    manifest = run.manifest
    attempt = {
        "attempt": run.attempt,
        "started_at": _now(),
        "command": sys.argv,
        "host": platform.node(),
        "overrides": list(overrides),
    }
    attempts = [*manifest.get("attempts", []), attempt]
    sweep = run.sweep.model_dump(mode="json")
    # No attempt changes the proposer, and the recorded one may have been removed since.
    sweep["proposer"] = manifest.get("sweep", {}).get("proposer", sweep["proposer"])
    content = {
        **manifest,
        "sweep": sweep,
        "sweep_folder": str(run.sweep_folder),
        "attempts": attempts,
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": {"processor": platform.machine(), "cores": cpus()},
    }
    write_whole(run.path / "run.json", json.dumps(content, indent=1).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
