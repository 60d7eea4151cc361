"""Where files of a run lie, and how they are written: on a file system or on an object store.

`place` turns what a user gives into a `Path` or a `StoredPath`. A file appears whole or not at all:
on a file system by a unique temporary name and one replace, on a store by one put or one multipart
upload. `create_whole` succeeds for one of all who try: by a hard link, or by a put on the condition
that nothing is there.
"""

import errno
import os
import re
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from evaluators.stored_path import CREDENTIALS, StorageError, StoredPath

_SCHEMES = ("s3", "gs", "az")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)
_READERS = 16
_CREATE_TRIES = 5

Place = Path | StoredPath


def place(text: str | os.PathLike[str]) -> Place:
    """Return the file or folder that a user names: a URL of a store, else a local path.

    Raises:
        ValueError: if a URL is of no known store, names no folder in a bucket, or holds more than
            bucket and folder, such as a password; the message does not repeat it then.
    """
    if isinstance(text, StoredPath | Path):
        return text
    match = _URL.fullmatch(os.fspath(text))
    if match is None:
        return Path(text)
    scheme, rest = match["scheme"].lower(), match["rest"]
    if "@" in rest or "?" in rest or "#" in rest:
        raise ValueError(
            f"a URL {scheme}://… may hold a bucket and a folder, but no user name, password or "
            f"options: give credentials by the environment ({CREDENTIALS.get(scheme, 'AWS_…')})"
        )
    if scheme not in _SCHEMES:
        known = ", ".join(f"{known}://BUCKET/FOLDER" for known in _SCHEMES)
        raise ValueError(
            f"{scheme}:// is no store that several processes can share; known: {known}"
        )
    parts = [part for part in rest.split("/") if part]
    if len(parts) < 2 or {".", ".."} & set(parts) or any(ord(letter) < 32 for letter in rest):
        raise ValueError(
            f"{scheme}://{rest!a:.200} names no folder in a bucket: give "
            f"{scheme}://BUCKET/FOLDER, without . and .."
        )
    return StoredPath(f"{scheme}:", *parts)


def under(folder: Path, named: Place) -> Place:
    """Return what a path relative to a local folder means; a URL stands for itself."""
    return named if isinstance(named, StoredPath) else folder / named


def write_whole(path: Place, content: bytes) -> None:
    """Write a file so that it appears complete or not at all.

    Raises:
        OSError: from the system, naming the file; the old file, if any, is then untouched. Also if
            the file system took everything and gives back less; the file is then absent.
    """
    if isinstance(path, StoredPath):
        path.write_bytes(content)
        return
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        found = path.read_bytes() if path.exists() else b""
        # Other content that is whole was written by another process after us.
        if found != content and content.startswith(found):
            path.unlink(missing_ok=True)
            raise OSError(errno.EIO, "what was written is lost or cut short")
    except BaseException as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def create_whole(path: Place, content: bytes) -> None:
    """Create a file with its content, whole or not at all, unless it exists.

    Args:
        path: the file.
        content: unlike what anybody else would write there: where the answer of a store was lost,
            it tells whose file it is.

    Raises:
        FileExistsError: if it exists.
        OSError: from the system.
    """
    if isinstance(path, StoredPath):
        _create_object(path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(scratch)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            # No hard links here. A reader that comes between the two steps sees an empty claim.
            with path.open("xb") as file:
                file.write(content)
    except OSError as error:
        # A full disk is noticed where nobody knows the file.
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        with suppress(OSError):
            scratch.unlink()


def _create_object(path: StoredPath, content: bytes) -> None:
    for left in reversed(range(_CREATE_TRIES)):
        try:
            path.create(content)
        except StorageError as error:
            # The put may have been done although its answer says otherwise, or never came.
            try:
                found = path.read_bytes()
            except FileNotFoundError:
                if not left:
                    raise error from None
                continue
            if found != content:
                raise FileExistsError(errno.EEXIST, "there is one already", str(path)) from error
        return


def check_exclusive(folder: Place) -> None:
    """Check that a store refuses to create what exists; some take the condition and ignore it.

    Raises:
        StorageError: if it does not.
    """
    if not isinstance(folder, StoredPath):
        return
    probe = folder / f".probe.{uuid.uuid4().hex}.tmp"
    try:
        create_whole(probe, b"first")
        create_whole(probe, b"second")
    except FileExistsError:
        return
    finally:
        remove([probe])
    raise StorageError(
        f"{folder.bucket} does not refuse to create an object that exists (a put with "
        "If-None-Match), so two processes could take the same attempt: use a store or a version of "
        "its server that does"
    )


def fetch(paths: Iterable[Place]) -> dict[Place, bytes]:
    """Return what is in those of the files that lie on a store, read many at a time.

    Those that are gone, and local ones, are left out.

    Raises:
        StorageError: if the store can't be read.
    """

    def read(path: StoredPath) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    stored = [path for path in paths if isinstance(path, StoredPath)]
    if len(stored) < 2:
        return {}
    with ThreadPoolExecutor(min(_READERS, len(stored))) as pool:
        found = zip(stored, pool.map(read, stored), strict=True)
        return {path: content for path, content in found if content is not None}


def remove(paths: Iterable[Place]) -> None:
    """Delete files; those that are gone already are passed over.

    Raises:
        OSError: if one can't be deleted.
    """
    stored: dict[str, list[StoredPath]] = {}
    for path in paths:
        if isinstance(path, StoredPath):
            stored.setdefault(path.bucket, []).append(path)
        else:
            path.unlink(missing_ok=True)
    for found in stored.values():
        found[0].unlink_all(found)
