"""Paths of a run's files and atomic writes, on a file system or an object store.

`place` turns a user's path or URL into a `Path` or a `StoredPath`. A file appears whole or not at
all: on a file system by a unique temporary name and one replace, on a store by one put or one
multipart upload. `create_whole` succeeds for exactly one of several processes: it uses a hard link,
or a put on the condition that the object does not exist.
"""

import errno
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kilobit.evaluators.ledger.stored_path import CREDENTIALS, StorageError, StoredPath

_SCHEMES = ("s3", "gs", "az")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)
_READERS = 16
_CREATE_TRIES = 5
# As large as a file may be that is read as a whole.
_MOST_BYTES = 1 << 40

Place = Path | StoredPath


def place(text: str | os.PathLike[str]) -> Place:
    """Return the path that a user gave: a `StoredPath` for a URL, else a local path.

    Raises:
        ValueError: if the URL's store is unknown, it names no folder in a bucket, or it contains
            more than bucket and folder, such as a password, which the message does not repeat.
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
            f"{scheme}:// is not an object store that processes can share; known: {known}"
        )
    parts = [part for part in rest.split("/") if part]
    if len(parts) < 2 or {".", ".."} & set(parts) or any(ord(letter) < 32 for letter in rest):
        raise ValueError(
            f"{scheme}://{rest!a:.200} names no folder in a bucket: give "
            f"{scheme}://BUCKET/FOLDER, without . and .."
        )
    return StoredPath(f"{scheme}:", *parts)


def local(text: str | os.PathLike[str]) -> Path:
    """Return the local path that a user gave.

    Raises:
        ValueError: if it is a URL.
    """
    found = place(text)
    if not isinstance(found, Path):
        raise ValueError(f"{text}: a local path is needed here, not an object store")
    return found


def under(folder: Path, named: Place) -> Place:
    """Return a path resolved against a local folder; a URL is returned unchanged."""
    return named if isinstance(named, StoredPath) else folder / named


def read_regular(path: Place, most: int) -> bytes:
    """Return the content of an untrusted file of at most `most` bytes, or of an object of a store.

    Raises:
        ValueError, OSError: as `read_regular_file` does; the message does not name it.
    """
    if isinstance(path, StoredPath):
        if path.stat().st_size > most:
            raise ValueError(f"larger than the allowed {most} bytes")
        return path.read_bytes()
    # Here, because pydantic takes a fifth of a second, and `--help` needs only paths.
    from kilobit.search.config_file import read_regular_file

    return read_regular_file(path, most)


def read_own(path: Place) -> bytes:
    """Return the content of a file of a ledger; on a file system it has to be a regular one.

    On a store this is one request: the size is not asked for.

    Raises:
        ValueError, OSError: as `read_regular_file` does; the message does not name it.
    """
    return path.read_bytes() if isinstance(path, StoredPath) else read_regular(path, _MOST_BYTES)


def read_json(path: Place) -> Any:
    """Return the value of a JSON file of a ledger or a data set.

    Raises:
        ValueError, OSError: as `read_own` does, also if it is not JSON.
    """
    try:
        return json.loads(read_own(path))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_whole(path: Place, content: bytes) -> None:
    """Write a file so that it appears complete or not at all.

    Raises:
        OSError: from the system, naming the file; an old file is then unchanged. Also if the file
            system accepted the content but returns less of it; the file is then absent.
    """
    if isinstance(path, StoredPath):
        path.write_bytes(content)
        return
    with _written_beside(path, content) as scratch:
        scratch.replace(path)
        found = path.read_bytes() if path.exists() else b""
        # Different content that is not a prefix was written by another process after ours.
        if found != content and content.startswith(found):
            path.unlink(missing_ok=True)
            raise OSError(errno.EIO, "the written content is lost or cut short")


@contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a temporary file beside `path` with the content, and delete it at the end.

    Raises:
        OSError: from the system, naming `path`: errors of write and fsync name no file.
    """
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield scratch
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def create_whole(path: Place, content: bytes) -> None:
    """Create a file with its content, whole or not at all, unless it exists.

    Args:
        path: the file.
        content: must differ from the content of any other process: if a store's answer was lost, it
            shows which process created the file.

    Raises:
        FileExistsError: if the file exists.
        OSError: from the system.
    """
    if isinstance(path, StoredPath):
        _create_object(path, content)
        return
    with _written_beside(path, content) as scratch:
        try:
            path.hardlink_to(scratch)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            # No hard links: create, then write. A reader in between sees an empty file.
            with path.open("xb") as file:
                file.write(content)


def _create_object(path: StoredPath, content: bytes) -> None:
    for left in reversed(range(_CREATE_TRIES)):
        try:
            path.create(content)
        except StorageError as error:
            # The put may have succeeded although its answer was an error or got lost.
            try:
                found = path.read_bytes()
            except FileNotFoundError:
                if not left:
                    raise error from None
                continue
            if found != content:
                raise FileExistsError(errno.EEXIST, "the file already exists", str(path)) from error
        return


def check_exclusive(folder: Place) -> None:
    """Check that a store refuses to create an object that exists; some ignore the condition.

    Raises:
        StorageError: if the store ignores the condition.
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
        "If-None-Match), so two processes could claim the same attempt: use a store, or a version "
        "of its server, that does"
    )


def fetch(paths: Iterable[Place]) -> dict[Place, bytes]:
    """Return the content of the files on object stores, read concurrently.

    Missing files and local files are left out; a single file is not read in advance.

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
    """Delete files; skip files that do not exist.

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
