"""Where files of a run lie: a local folder, or a folder of an object store named by a URL.

`place` turns what a user gives into a `Path` or a `StoredPath`, and the rest of the code treats
both alike: a `StoredPath` has those methods of `Path` that a run needs. The store is reached
through obstore, with credentials from the environment only.

A file appears whole or not at all. On a file system that is a unique temporary name and one
replace; on a store it is one put or one multipart upload, of which nobody sees anything before its
end. `create_whole` succeeds for one of all who try: by a hard link, or by a put on the condition
that nothing is there. What fails for a moment on a store (5xx, too many requests, lost connections,
time-outs) is tried again for two minutes; what lasts is a `StorageError` that says what to do.

Not promised: that a folder of a store exists while it holds nothing, or that many files are read at
one instant.
"""

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

_Found = TypeVar("_Found")
_SCHEMES = ("s3", "gs", "az")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, with temporary ones AWS_SESSION_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_RETRY_FOR_S = 120.0
# A first look that nobody answers has to end soon: most often a name is wrong.
_FIRST_RETRIES = 3
_TIMEOUT_S = 60.0
# Up to this an object is written by one request.
_ONE_PUT_BYTES = 1 << 26
_CHUNK_BYTES = 1 << 24
_READERS = 16
_CREATE_TRIES = 5


class StorageError(OSError):
    """A store can't be used, for a reason that trying again does not mend; the text says which."""


@dataclass(frozen=True)
class Stat:
    """Size in bytes of an object, and when it was last written by the store's own clock."""

    st_size: int
    st_mtime_ns: int


class StoredPath(PurePosixPath):
    """A file or folder of an object store, for example `s3://bucket/runs/one`.

    Methods named as those of `Path` do the same, as far as a store can, and raise
    `FileNotFoundError` where there is no object, and `StorageError` for what lasts.
    """

    __slots__ = ()

    def __str__(self) -> str:
        text, first = super().__str__(), self.parts[:1]
        return text.replace(":/", "://", 1) if first and first[0].endswith(":") else text

    @property
    def bucket(self) -> str:
        """Return the URL of the bucket."""
        return f"{self.parts[0]}//{self.parts[1]}"

    @property
    def key(self) -> str:
        """Return the path within the bucket."""
        return "/".join(self.parts[2:])

    def absolute(self) -> "StoredPath":
        """Return this path: there is no current folder."""
        return self

    def resolve(self) -> "StoredPath":
        """Return this path: there are no links."""
        return self

    def exists(self) -> bool:
        """Return whether there is an object of this name; folders do not exist by themselves."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def stat(self) -> Stat:
        """Return size and time of the last change."""
        about = self._ask(lambda store: store.head(self.key))
        return Stat(about["size"], int(about["last_modified"].timestamp() * 1e9))

    def read_bytes(self) -> bytes:
        """Return what is in an object."""
        return bytes(self._ask(lambda store: store.get(self.key).bytes()))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return what is in an object as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write an object by one put or one multipart upload, in place of any other."""
        self._put(content, use_multipart=len(content) > _ONE_PUT_BYTES, chunk_size=_CHUNK_BYTES)

    def touch(self, *, exist_ok: bool = True) -> None:
        """Write an empty object, which brings its time to now; `exist_ok` is not looked at."""
        self._put(b"", use_multipart=False)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete an object."""
        if not missing_ok:
            self.stat()
        remove([self])

    def rename(self, target: "Path | StoredPath") -> "StoredPath":
        """Copy an object to another name of the same bucket, then delete it here."""
        assert isinstance(target, StoredPath)
        self._ask(lambda store: store.copy(self.key, target.key))
        remove([self])
        return target

    def glob(self, pattern: str) -> Iterator["StoredPath"]:
        """Yield the objects below this folder whose path matches, part by part; no folders."""
        wanted = pattern.split("/")
        for path in self.rglob("*"):
            found = path.parts[len(self.parts) :]
            if len(found) == len(wanted) and all(map(fnmatchcase, found, wanted)):
                yield path

    def rglob(self, pattern: str) -> Iterator["StoredPath"]:
        """Yield all objects below this folder; only for the pattern `*`."""
        assert pattern == "*"
        pages = iter(self._ask(lambda store: store.list(self.key, chunk_size=1000)))
        while True:
            page = self._ask(lambda _: next(pages, None), missing_is_bucket=True)
            if page is None:
                return
            for about in page:
                yield StoredPath(f"{self.bucket}/{about['path']}")

    def reach(self) -> None:
        """Look whether the store answers and lists this folder, with little patience.

        Raises:
            StorageError: if not.
        """
        self._ask(
            lambda store: next(iter(store.list(self.key, chunk_size=1)), None),
            missing_is_bucket=True,
            first=True,
        )

    def _put(self, content: bytes, **how: Any) -> None:
        self._ask(lambda store: store.put(self.key, content, **how), missing_is_bucket=True)

    def _ask(
        self,
        call: Callable[[Any], _Found],
        *,
        missing_is_bucket: bool = False,
        first: bool = False,
    ) -> _Found:
        """Return what a call of the store gives, with its errors as ours.

        Args:
            call: takes the store of this path's bucket.
            missing_is_bucket: what the call does needs no object, only the bucket.
            first: give up soon.
        """
        store = _store(self.bucket, first)
        try:
            return call(store)
        except FileNotFoundError as error:
            if missing_is_bucket:
                raise StorageError(_no_bucket(self)) from error
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self)) from error
        except Exception as error:
            if not _is_of_obstore(error):
                raise
            raise StorageError(_described(self, error)) from error


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
            f"options: give credentials by the environment ({_CREDENTIALS.get(scheme, 'AWS_…')})"
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
    finally:
        with suppress(OSError):
            scratch.unlink()


def _create_object(path: StoredPath, content: bytes) -> None:
    for left in reversed(range(_CREATE_TRIES)):
        try:
            path._put(content, mode="create")  # noqa: SLF001 - of this module
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
        keys = [path.key for path in found]
        # Stores that delete one by one say that an object was gone.
        with suppress(FileNotFoundError):
            found[0]._ask(lambda store, keys=keys: store.delete(keys))  # type: ignore[misc] # noqa: SLF001


@lru_cache(maxsize=64)
def _store(bucket: str, first: bool = False) -> Any:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StorageError(
            f"{bucket}: runs on object storage need obstore: pip install 'kilobit[store]'"
        ) from error
    retries: dict[str, Any] = {
        "max_retries": _FIRST_RETRIES if first else 30,
        "retry_timeout": timedelta(seconds=_RETRY_FOR_S),
        "backoff": {
            "init_backoff": timedelta(milliseconds=200),
            "max_backoff": timedelta(seconds=15),
            "base": 2,
        },
    }
    options: dict[str, Any] = {
        "allow_http": True,
        "timeout": timedelta(seconds=_TIMEOUT_S),
        "connect_timeout": timedelta(seconds=5),
    }
    try:
        return from_url(bucket, retry_config=retries, client_options=options)  # type: ignore[call-overload]
    except Exception as error:
        raise StorageError(f"{bucket} can't be used: {_first_line(error)}") from error


def _is_of_obstore(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] == "obstore"


def _first_line(error: Exception) -> str:
    """Return the first line of an error of a store, without what URLs in it may hold."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"\?\S*", "", re.sub(r"//[^/@\s]*@", "//", line))[:300]


def _no_bucket(path: StoredPath) -> str:
    return f"there is no bucket {path.bucket}: make it, or correct its name"


def _described(path: StoredPath, error: Exception) -> str:
    """Return what is wrong with a store, and what to do about it.

    Bodies of answers are not repeated: some hold the request with its signature.
    """
    text, scheme = str(error).split("Debug source:", 1)[0], path.parts[0][:-1]
    found = re.search(r"<Code>(\w+)</Code>", text)
    status = re.search(r"status code: (\d+)", text)
    code = found[1] if found else status[1] if status else ""
    credentials = f"the environment ({_CREDENTIALS[scheme]})"
    if code == "NoSuchBucket":
        return _no_bucket(path)
    # Where the environment names no credentials, those of the machine's cloud are asked for.
    if "169.254." in text or "metadata.google" in text:
        return f"{path.bucket}: there are no credentials: set them in {credentials}"
    if code in ("ExpiredToken", "TokenRefreshRequired"):
        return f"{path.bucket}: the credentials have expired: renew those in {credentials}"
    if code in ("401", "403") or type(error).__name__ in (
        "PermissionDeniedError",
        "UnauthenticatedError",
    ):
        return (
            f"{path.bucket} refuses access ({code}): check the credentials in {credentials}, and "
            "that they may list, read, write and delete there"
        )
    if "redirect" in text.lower():
        return f"{path.bucket} is in another region: set AWS_REGION"
    tries = re.search(r"after (\d+) retries", text)
    tried = f", tried {int(tries[1]) + 1} times" if tries else ""
    if not status:
        url = re.search(r"performing \w+ (\w+://)(?:[^/@\s]*@)?([^/\s]+)", text)
        where = f" at {url[1]}{url[2]}" if url else ""
        return (
            f"{path.bucket}: no answer{where}{tried}: check the network, and for a server other "
            f"than the provider's own its address (AWS_ENDPOINT_URL)"
        )
    return f"{path.bucket}: {_first_line(error)} {code}{tried}"
