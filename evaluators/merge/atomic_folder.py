"""Atomic folders, written beside their path and renamed at the end, and temporary folders.

What a killed process leaves of either is deleted by the next one.
"""

import errno
import fcntl
import glob
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# The beginning of the names of temporary folders, and how long one may take to be locked.
_LEFT, _NEW_S = "kilobit.", 60.0


@contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `out`, and delete it at the end.

    Temporary folders of `out` that killed processes left are deleted too.

    Raises:
        OSError: naming `out`, if disk space or a quota is exhausted or a file is too large; other
            errors unchanged.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
        _take_away_if_left(path)
    scratch = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    scratch.mkdir(mode=0o777)
    try:
        with (scratch / "lock").open("wb") as lock:
            # The lock is released when this process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield scratch
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        why = f"{os.strerror(error.errno)}; nothing was written"
        raise OSError(error.errno, why, str(out)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """Yield a temporary folder that is deleted at the end, whatever was made of it.

    What can't be deleted stays and decides nothing: a folder made unreadable, a link in its place.
    Temporary folders of killed processes are deleted at the first call.

    Args:
        kind: what it is for, a part of its name.
    """
    _delete_left()
    path = Path(tempfile.mkdtemp(prefix=f"{_LEFT}{kind}-"))
    try:
        with _locked(path):
            yield path
    finally:
        _delete(path)


@cache
def _delete_left() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_LEFT}*"):
        # One that was made just now may not be locked yet.
        with suppress(OSError):
            made = path.lstat()
            mine = made.st_uid == os.getuid() and not path.is_symlink()
            if mine and time.time() - made.st_ctime > _NEW_S:
                with _locked(path):
                    _delete(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder until this process ends, however it ends.

    Raises:
        OSError: if another process has locked it.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


def _delete(path: Path) -> None:
    # Python goes down nested folders by recursion, with an open file for each of them.
    with suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        words = ["/bin/rm", "-rf", "--", str(path)]
        subprocess.run(words, check=False, capture_output=True)  # noqa: S603


def _take_away_if_left(path: Path) -> None:
    with suppress(OSError), (path / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)


def publish(made: Path, out: Path, own: Collection[str]) -> None:
    """Rename a finished folder to `out`; of a folder that is there, only the files in `own` go.

    Args:
        made: the finished folder, on the same file system.
        out: its path.
        own: names of the files and folders in `out` that `made` replaces, or that are obsolete.

    Raises:
        OSError: if it can't be renamed, or if another file of `out` can't be carried over. That
            file is then still in the folder `.OUT.*.before`.
    """
    for path in [*made.rglob("*"), made]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if not out.exists() or not any(out.iterdir()):
        made.rename(out)
        return
    # Two renames, because no call replaces a folder with content on every file system.
    before = out.with_name(f".{out.name}.{uuid.uuid4().hex}.before")
    out.rename(before)
    made.rename(out)
    # Carry the other files over after the renames: a kill in between loses nothing, because
    # folders `*.before` are never deleted later.
    for path in list(before.iterdir()):
        if path.name not in own:
            path.rename(out / path.name)
    shutil.rmtree(before, ignore_errors=True)
