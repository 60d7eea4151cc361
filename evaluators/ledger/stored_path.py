"""Files and folders of an object store, named by a URL such as `s3://bucket/runs/one`.

A `StoredPath` has the methods of `Path` that a run needs, so other code treats both alike. The
store is accessed through obstore, with credentials from the environment only. Temporary failures
(5xx, too many requests, lost connections, time-outs) are retried for two minutes; permanent ones
raise a `StorageError` that says what to do.

An object appears whole or not at all: it is one put or one multipart upload, which becomes visible
only when it is complete. Not promised: that an empty folder exists.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from operator import methodcaller
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

_Found = TypeVar("_Found")
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, with temporary ones AWS_SESSION_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# Addresses that obstore takes from the environment; it panics where one is no URL.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_STS"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
# Values that go into headers of requests, where it panics for a line break.
_IN_HEADERS = re.compile(r"(AWS|AZURE)_\w*(KEY|KEY_ID|TOKEN|REGION|ACCOUNT_NAME)")
# Seconds for which a store may fail, or be silent, before it counts as unreachable.
_PATIENCE = "KILOBIT_STORE_PATIENCE_S"
_PATIENCE_S = 120.0
# The first request must fail soon if there is no answer: usually a name is wrong.
_FIRST_RETRIES, _FIRST_PATIENCE_S = 3, 20.0
_MOST_RETRIES = 30
# Largest object that one request writes.
_ONE_PUT_BYTES = 1 << 26
_CHUNK_BYTES = 1 << 24


class StorageError(OSError):
    """A store can't be used for a reason that retries do not fix; the text names it."""


@dataclass(frozen=True)
class Stat:
    """Size of an object in bytes, and time of its last write by the store's clock."""

    st_size: int
    st_mtime_ns: int


class StoredPath(PurePosixPath):
    """A file or folder of an object store, for example `s3://bucket/runs/one`.

    Methods named as those of `Path` do the same, as far as a store can. They raise
    `FileNotFoundError` if there is no object, and `StorageError` for permanent failures.
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
        """Return this path: a store has no current folder."""
        return self

    def resolve(self) -> "StoredPath":
        """Return this path: a store has no links."""
        return self

    def exists(self) -> bool:
        """Return whether an object of this name exists; folders do not exist by themselves."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def stat(self) -> Stat:
        """Return the size and the time of the last change."""
        about = self._ask(lambda store: store.head(self.key))
        return Stat(about["size"], int(about["last_modified"].timestamp() * 1e9))

    def read_bytes(self) -> bytes:
        """Return the content of an object."""
        return bytes(self._ask(lambda store: store.get(self.key).bytes()))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content of an object as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write an object by one put or one multipart upload, replacing an existing one."""
        self._put(content, use_multipart=len(content) > _ONE_PUT_BYTES, chunk_size=_CHUNK_BYTES)

    def create(self, content: bytes) -> None:
        """Write an object by one put, on the condition that it does not exist.

        Raises:
            StorageError: also if the object exists. It may be this call's own: after a lost answer
                the put is retried and then finds the object of the first try.
        """
        self._put(content, mode="create")

    def touch(self, *, exist_ok: bool = True) -> None:
        """Write an empty object, which sets its time to now; `exist_ok` is ignored."""
        self._put(b"", use_multipart=False)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete an object."""
        if not missing_ok:
            self.stat()
        self.unlink_all([self])

    def rename(self, target: "Path | StoredPath") -> "StoredPath":
        """Copy an object to another name in the same bucket, then delete the original."""
        assert isinstance(target, StoredPath)
        self._ask(lambda store: store.copy(self.key, target.key))
        self.unlink_all([self])
        return target

    def unlink_all(self, paths: Sequence["StoredPath"]) -> None:
        """Delete objects of this path's bucket, many per request; skip those that do not exist."""
        keys = [path.key for path in paths]
        try:
            self._ask(lambda store: store.delete(keys))
        except FileNotFoundError:
            # Some stores delete one by one and stop at the first missing object.
            for key in keys:
                with suppress(FileNotFoundError):
                    self._ask(methodcaller("delete", key))

    def glob(self, pattern: str) -> Iterator["StoredPath"]:
        """Yield the objects below this folder that match `pattern` part by part; no folders."""
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
        """Check that the store answers and lists this folder, with few retries.

        Raises:
            StorageError: if it does not.
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
        """Return the result of a call to the store; translate its errors into ours.

        Args:
            call: a function of the store of this path's bucket.
            missing_is_bucket: the call needs no object, so a "not found" means the bucket.
            first: use few retries.
        """
        store = _store(self.bucket, first)
        try:
            return call(store)
        except FileNotFoundError as error:
            if missing_is_bucket:
                raise StorageError(_no_bucket(self)) from error
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self)) from error
        except BaseException as error:
            if _is_a_panic(error):
                raise StorageError(_panicked(self.bucket, error)) from error
            if not isinstance(error, Exception) or not _is_of_obstore(error):
                raise
            raise StorageError(_described(self, error)) from error


@lru_cache(maxsize=64)
def _store(bucket: str, first: bool = False) -> Any:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StorageError(
            f"{bucket}: runs on object storage need obstore: pip install 'kilobit[store]'"
        ) from error
    patience_s = _patience_s(first=first)
    retries: dict[str, Any] = {
        "max_retries": _FIRST_RETRIES if first else _MOST_RETRIES,
        "retry_timeout": timedelta(seconds=patience_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=200),
            "max_backoff": timedelta(seconds=15),
            "base": 2,
        },
    }
    options: dict[str, Any] = {
        "allow_http": True,
        # A second request may find another server that answers.
        "timeout": timedelta(seconds=patience_s / 2),
        "connect_timeout": timedelta(seconds=5),
    }
    _check_environment(bucket)
    try:
        return from_url(bucket, retry_config=retries, client_options=options)  # type: ignore[call-overload]
    except Exception as error:
        raise StorageError(f"{bucket} can't be used: {_first_line(error)}") from error
    except BaseException as error:
        if not _is_a_panic(error):
            raise
        raise StorageError(_panicked(bucket, error)) from error


def _patience_s(*, first: bool) -> float:
    """Return for how many seconds a request is tried.

    Raises:
        StorageError: if the environment variable for it holds no such number.
    """
    text = os.environ.get(_PATIENCE)
    try:
        found = _PATIENCE_S if text is None else float(text)
    except ValueError:
        found = 0.0
    if not 1 <= found <= 86400:
        raise StorageError(f"the environment variable {_PATIENCE} has to be 1 to 86400 seconds")
    return min(found, _FIRST_PATIENCE_S) if first else found


def _check_environment(bucket: str) -> None:
    """Check the variables that obstore reads, whose values are not repeated: they may be secret.

    Raises:
        StorageError: naming the variable that it can't use.
    """
    from kilobit.search.settings import is_address

    for name in _ENDPOINTS[bucket.partition(":")[0]]:
        value = os.environ.get(name)
        if value is not None and not is_address(value):
            raise StorageError(
                f"{bucket}: the environment variable {name} has to be an address such as "
                "http://HOST:PORT, or not to be set"
            )
    for name, value in os.environ.items():
        if _IN_HEADERS.fullmatch(name) and not value.isprintable():
            raise StorageError(f"{bucket}: the environment variable {name} holds a line break")


def _is_a_panic(error: BaseException) -> bool:
    # Its class, which can't be imported, is no `Exception`.
    return type(error).__name__ == "PanicException"


def _panicked(bucket: str, error: BaseException) -> str:
    return (
        f"{bucket} can't be used: obstore failed ({_first_line(error)}); check the environment "
        f"({CREDENTIALS[bucket.partition(':')[0]]}, and addresses)"
    )


def _is_of_obstore(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] == "obstore"


def _first_line(error: BaseException) -> str:
    """Return the first line of a store's error, without user names and options in URLs."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"\?\S*", "", re.sub(r"//[^/@\s]*@", "//", line))[:300]


def _no_bucket(path: StoredPath) -> str:
    return f"there is no bucket {path.bucket}: make it, or correct its name"


def _described(path: StoredPath, error: Exception) -> str:
    """Return a message that says what is wrong with a store and what to do.

    Bodies of answers are not repeated: some contain the request with its signature.
    """
    text, scheme = str(error).split("Debug source:", 1)[0], path.parts[0][:-1]
    found = re.search(r"<Code>(\w+)</Code>", text)
    answer = re.search(r"status code: (\d+)", text)
    code, status = found[1] if found else "", answer[1] if answer else ""
    credentials = f"the environment ({CREDENTIALS[scheme]})"
    if code == "NoSuchBucket":
        return _no_bucket(path)
    # Without credentials in the environment, obstore asks the cloud's metadata server for some.
    if "169.254." in text or "metadata.google" in text:
        return f"{path.bucket}: there are no credentials: set them in {credentials}"
    if code in ("ExpiredToken", "TokenRefreshRequired"):
        return f"{path.bucket}: the credentials have expired: renew those in {credentials}"
    if status in ("401", "403"):
        return (
            f"{path.bucket} refuses access ({code or status}): check the credentials in "
            f"{credentials}, and that they may list, read, write and delete there"
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
    return f"{path.bucket} answers {' '.join(filter(None, (status, code)))}{tried}"
