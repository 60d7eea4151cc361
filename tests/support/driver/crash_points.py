"""A shim below a folder's files: it counts their changes, copies the folder there, or fails them.

Python reports each open, rename, link, delete and new folder to an audit hook before it happens;
the hook may raise, and then it does not happen. Of a write, the shim sees its begin (the open) and
its end (fsync), so it also makes the copy in which half of the content is there. A process that is
killed leaves its folder as it is at that instant: a copy of the folder is what a kill leaves.

Signs of life come from a thread at any time and are not counted.
"""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What an audit event changes, by the place of the path in its arguments and of a folder's number.
CHANGES = {
    "os.rename": (1, 3), "os.link": (1, 3), "os.remove": (0, 1), "os.rmdir": (0, 1),
    "os.mkdir": (0, 2), "os.truncate": (0, None), "os.symlink": (1, 2),
}  # fmt: skip
NOT_COUNTED = (".alive",)
# Kinds that change nothing when something, or nothing, has the path.
NOTHING = {"mkdir": True, "remove": False}


class Shim:
    """What is done at each change below `root`; inactive while `root` is None."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.act: Callable[[str, str], None] = lambda kind, path: None
        self._inside = threading.local()
        self._installed = False

    @contextmanager
    def watching(self, root: Path, act: Callable[[str, str], None]) -> Iterator[None]:
        """Call `act` with the kind and the path of each change below `root` before it happens."""
        if not self._installed:
            sys.addaudithook(self._heard)
            self._installed = True
        synced = os.fsync

        def fsync(number: int) -> None:
            self._changed("fsync", str(Path(f"/proc/self/fd/{number}").readlink()))
            synced(number)

        self.root, self.act, os.fsync = str(root.resolve()), act, fsync  # type: ignore[assignment]
        try:
            yield
        finally:
            self.root, os.fsync = None, synced

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event == "open":
            if isinstance(args[0], str | bytes | os.PathLike) and args[2] & WRITES:
                self._changed("open", os.fsdecode(args[0]))
        elif event in CHANGES:
            at, folder = CHANGES[event]
            path = os.fsdecode(args[at])
            if folder is not None and len(args) > folder and args[folder] not in (-1, None):
                path = str(Path(f"/proc/self/fd/{args[folder]}").readlink() / path)
            self._changed(event.removeprefix("os."), path)

    def _changed(self, kind: str, path: str) -> None:
        path = str(Path(path).absolute())
        inside = getattr(self._inside, "yes", False)
        if inside or self.root is None or not f"{path}/".startswith(f"{self.root}/"):
            return
        # A folder that is there is not made again, and what is not there is not deleted.
        if path.endswith(NOT_COUNTED) or os.path.lexists(path) == NOTHING.get(kind):
            return
        self._inside.yes = True
        try:
            self.act(kind, path)
        finally:
            self._inside.yes = False


SHIM = Shim()


def count(root: Path, doing: Callable[[], Any]) -> list[str]:
    """Return the kind and the name of each change below `root` while `doing` runs."""
    found: list[str] = []
    with SHIM.watching(root, lambda kind, path: found.append(f"{kind} {Path(path).name}")):
        doing()
    return found


def _copied(source: str, target: str) -> str:
    """Copy a file unless another thread has deleted it meanwhile."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)
    return target


def copies(root: Path, into: Path, doing: Callable[[], Any]) -> list[Path]:
    """Return a copy of `root` for each instant at which a kill leaves another folder.

    One before each change, one more with half of the content of each written file, and one after
    the last change.
    """
    found: list[Path] = []
    lock = threading.Lock()

    def copy(what: str) -> Path:
        found.append(into / f"{len(found):04}-{what}" / root.name)
        if root.exists():
            shutil.copytree(root, found[-1], symlinks=True, copy_function=_copied)
        else:
            found[-1].parent.mkdir(parents=True)
        return found[-1]

    def act(kind: str, path: str) -> None:
        with lock:
            copy(kind)
            if kind == "fsync" and Path(path).is_file() and Path(path).stat().st_size > 1:
                half = copy("torn") / Path(path).relative_to(root.resolve())
                os.truncate(half, half.stat().st_size // 2)

    with SHIM.watching(root, act):
        doing()
    copy("end")
    return found


def failing(root: Path, at: int, number: int, doing: Callable[[], Any]) -> Any:
    """Run `doing` while its change number `at` (from 0) below `root` fails with an errno.

    Returns:
        What `doing` returned, or the error that it raised.
    """
    seen = [0]
    lock = threading.Lock()

    def act(kind: str, path: str) -> None:
        with lock:
            seen[0] += 1
            if seen[0] == at + 1:
                raise OSError(number, os.strerror(number), path)

    with SHIM.watching(root, act):
        try:
            return doing()
        except Exception as error:  # noqa: BLE001
            return error
