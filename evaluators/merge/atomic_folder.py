"""Atomic folders: written under a temporary name beside their path, and renamed at the end."""

import errno
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
