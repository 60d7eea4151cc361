"""Folders that appear whole or not at all: made beside their place, and renamed at the end."""

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def place_beside(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, which is gone at the end.

    Folders of the same kind whose makers were killed are taken away.

    Raises:
        OSError: naming `out`, if what is written there has no room; other errors as they are.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in out.parent.glob(f".{_glob_escaped(out.name)}.*.tmp"):
        _take_away_if_left(path)
    scratch = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    scratch.mkdir(mode=0o777)
    try:
        with (scratch / "lock").open("wb") as lock:
            # It ends with this process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield scratch
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        why = f"{os.strerror(error.errno)}; nothing was written"
        raise OSError(error.errno, why, str(out)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _glob_escaped(name: str) -> str:
    """Return a name as a glob that matches nothing else."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _take_away_if_left(path: Path) -> None:
    with suppress(OSError), (path / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)


def publish(made: Path, out: Path, own: Collection[str]) -> None:
    """Put a finished folder in its place; of what is there only what the maker owns goes.

    Args:
        made: the finished folder, on the same file system.
        out: its place.
        own: names of the files and folders in `out` that `made` replaces, or that are obsolete.

    Raises:
        OSError: if it can't be put there, or if something can't be carried over. Then that is
            still in the folder `.OUT.*.before`.
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
    # Two steps, because no call of every file system replaces a folder that holds something.
    before = out.with_name(f".{out.name}.{uuid.uuid4().hex}.before")
    out.rename(before)
    made.rename(out)
    # From the old folder, not from before the renames: a kill in between loses nothing, because
    # nobody takes a folder `*.before` away.
    for path in list(before.iterdir()):
        if path.name not in own:
            path.rename(out / path.name)
    shutil.rmtree(before, ignore_errors=True)
