"""Checks of access: a folder can be reached and written, and one of a run by its owner alone.

Programs of a run are executed, so other users must not write there.

`KILOBIT_SHARED_RUNS=1` declares that other users are trusted: folders then get the permissions that
the umask gives them, and are used even if other users may write to them. It is not a setting of a
run, because a user who can write to a run could change it.
"""

import os
import pwd
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kilobit.cluster.requests import wrong_input
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.settings import InputError

_DATASET = "dataset.json"
# The manifests of a run, of a data set and of a program.
_MANIFESTS = ("run.json", _DATASET, "manifest.json")
_RUNS_SHOWN = 5


def are_shared() -> bool:
    """Return whether this user trusts others with write access to run folders."""
    return os.environ.get("KILOBIT_SHARED_RUNS") == "1"


def make_folder(folder: Path) -> None:
    """Make the folder of a run, if it is missing; unless shared, only its owner has access."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o777 if are_shared() else 0o700, exist_ok=True)


def check_nobody_else_writes(folder: Path) -> None:
    """Check that no other user may write to the folder of a run.

    Raises:
        InputError: if another user may.
    """
    if are_shared():
        return
    about = folder.stat()
    own_group = _name(lambda: pwd.getpwuid(os.geteuid()).pw_name, "unknown")
    group = _name(folder.group, str(about.st_gid))
    if about.st_uid not in (os.geteuid(), 0):
        who = f"{_name(folder.owner, f'user {about.st_uid}')} owns it"
    elif about.st_mode & stat.S_IWOTH:
        who = "everybody may"
    elif about.st_mode & stat.S_IWGRP and group != own_group:
        # Many systems make a group for each user.
        who = f"the group {group} may"
    else:
        return
    raise InputError(
        f"{folder} can be written by others ({who}), and programs in it are executed: "
        f"chmod go-w {folder}, or set KILOBIT_SHARED_RUNS=1 if they are to be trusted"
    )


def _name(find: Callable[[], str], otherwise: str) -> str:
    try:
        return find()
    except KeyError:
        return otherwise


def check_there(path: Place, kind: str = "run") -> None:
    """Check that a folder holds results, before a library is loaded that reads them.

    A store is asked later, by `check_reachable`.

    Args:
        path: the folder of a run, a data set or a program.
        kind: which of them, for the message.

    Raises:
        InputError: if it holds none of them.
    """
    if not isinstance(path, Path) or any((path / name).exists() for name in _MANIFESTS):
        return
    if not path.exists():
        raise InputError(f"{path} holds no {kind}: there is no such folder")
    raise InputError(no_run_error(path) if kind == "run" else f"{path} holds no {kind}")


def check_reachable(path: Place) -> None:
    """Check that the store of a folder answers, before anything starts there.

    Raises:
        InputError: if it does not.
    """
    if isinstance(path, StoredPath):
        with wrong_input(OSError):
            path.reach()


def check_writable(option: str, folder: Place) -> None:
    """Check that files can be created in a folder, which need not exist; nothing is left there.

    Args:
        option: the option that names it, for the message: for example `-o all`.
        folder: for one in an object store, only check that the store answers.

    Raises:
        InputError: naming the option, the path and the reason, if no file can be created.
    """
    if isinstance(folder, StoredPath):
        try:
            folder.reach()
        except OSError as error:
            raise InputError(f"{option}: {error}") from error
        return
    absolute = folder.absolute()
    place = next(path for path in (absolute, *absolute.parents) if _is_seen(path))
    try:
        # Try it: permissions do not show read-only file systems, and do not bind root.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{option}: can't be written: {place}: {reason}") from error


def _is_seen(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # This user may not look into its parent, which is tried instead.
        return False


def no_run_error(path: Place) -> str:
    """Return the reason why a path without `run.json` is not a run.

    Folders of an object store are not searched for runs: a listing may be long.
    """
    if (path / _DATASET).exists():
        return f"{path} is a data set, which front, report and aggregate read"
    if isinstance(path, Path):
        if not path.is_dir():
            return f"{path} is a file, not the folder of a run"
        runs = _runs_in(path)
        if runs:
            more = f" and {len(runs) - _RUNS_SHOWN} more" if len(runs) > _RUNS_SHOWN else ""
            return f"{path} is not a run but contains runs: {', '.join(runs[:_RUNS_SHOWN])}{more}"
    return f"{path} holds no run: run.json is missing"


def _runs_in(folder: Path) -> list[str]:
    # A folder that this user may not list counts as one without runs.
    with suppress(OSError):
        return [str(file.parent) for file in sorted(folder.glob("*/run.json"))]
    return []
