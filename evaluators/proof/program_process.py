"""Process that runs programs in sandboxes; `sandbox.py` starts this file by its path.

It has no package of ours and reads one JSON request a line from its standard input. It imports the
libraries that a request names, so once for all programs; every program runs in a fork of it, one
that is `idle` with the processor time that no other process wants, until a request ends all of
these. Each gets, as far as the system allows an ordinary user to make namespaces:

- no network,
- no other process: its processes end with it and see none but themselves,
- no files but its own folder, the model and the libraries, all read-only, and an empty /tmp.

The answer to a request says which of the three were enforced. A line is smaller than PIPE_BUF, so
answers of programs that run at the same time do not mix.
"""

import atexit
import ctypes
import gc
import importlib
import json
import logging
import os
import resource
import runpy
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_SYSTEM = ("bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "sys", "usr")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_HIDDEN = "kilobit"

# From linux/sched.h, linux/mount.h, linux/prctl.h and linux/capability.h.
_NEW_FILES, _NEW_IPC, _NEW_USER = 0x00020000, 0x08000000, 0x10000000
_NEW_PROCESSES, _NEW_NETWORK = 0x20000000, 0x40000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE, _DETACH = 1, 32, 0x1000, 0x4000, 1 << 18, 2
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_READ_ONLY = 442, -100, 0x8000, 1
_SET_DEATH_SIGNAL, _DROP_FROM_BOUNDING, _NO_NEW_PRIVILEGES = 1, 24, 38
_CAPABILITY_VERSION = 0x20080522

_idle = set[int]()
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the C library.

    Raises:
        OSError: if it fails or there is none.
    """
    try:
        function = getattr(_libc, name)
    except AttributeError as error:
        raise OSError(f"this system has no {name}") from error
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str = "") -> None:
    _call(
        "mount",
        source.encode(),
        str(target).encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )


def _new_namespaces() -> list[str]:
    """Leave the namespaces of the system; return what is enforced by that."""
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEW_USER | _NEW_NETWORK | _NEW_PROCESSES | _NEW_FILES | _NEW_IPC)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    except OSError:
        return []
    return ["network", "processes"]


def _libraries() -> Iterator[Path]:
    """Yield the folders that libraries are read from; none that has our package beside others."""
    yield from (Path("/") / name for name in _SYSTEM)
    found = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    found += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    for path in map(Path, filter(None, found)):
        if path.name == "site-packages" or not (path / _HIDDEN).exists():
            yield path


def _outside(folder: Path) -> Iterator[Path]:
    """Yield the files outside of a folder that links in it lead to, as in a cache of the hub."""
    for path in folder.rglob("*"):
        real = path.resolve()
        if path.is_symlink() and real.exists() and not real.is_relative_to(folder):
            yield real


class _Root:
    """New root folder of a program's mount namespace."""

    def __init__(self, root: Path) -> None:
        self._root = root
        _mount("none", Path("/"), None, _RECURSIVE | _PRIVATE)
        _mount("tmpfs", root, "tmpfs", 0, "size=16m,mode=755")

    def show(self, path: Path, at: Path | None = None) -> None:
        """Show a file or folder read-only at its own place or at another one."""
        inside = self._inside(at or path)
        if inside.exists() or not path.exists():
            return
        self._bind(path, inside)
        self._protect(inside)

    def link(self, path: Path) -> None:
        """Make a path lead to where it leads outside."""
        inside = self._inside(path)
        real = path.resolve()
        if path != real and path.exists() and not inside.exists():
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.symlink_to(real)

    def _inside(self, path: Path) -> Path:
        return self._root / str(path).lstrip("/")

    def _bind(self, path: Path, inside: Path) -> None:
        inside.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            inside.mkdir()
        else:
            inside.touch()
        _mount(str(path), inside, None, _BIND | _RECURSIVE)

    def _protect(self, inside: Path) -> None:
        attributes = struct.pack("QQQQ", _ATTR_READ_ONLY, 0, 0, 0)
        _call(
            "syscall",
            ctypes.c_long(_MOUNT_SETATTR),
            ctypes.c_int(_AT_FDCWD),
            str(inside).encode(),
            ctypes.c_uint(_AT_RECURSIVE),
            attributes,
            ctypes.c_size_t(len(attributes)),
        )

    def hide(self, folder: Path) -> None:
        """Cover a folder by an empty one, if it is there."""
        inside = self._inside(folder)
        if inside.is_dir():
            _mount("tmpfs", inside, "tmpfs", _READ_ONLY, "size=4k")

    def add_devices(self) -> None:
        """Add the devices that a program may use, GPUs among them."""
        for device in (*(Path("/dev") / name for name in _DEVICES), *Path("/dev").glob("nvidia*")):
            if device.exists():
                self._bind(device, self._inside(device))

    def add_scratch(self) -> None:
        """Add the only folders that can be written to, which end with the program."""
        for inside in (self._root / "dev" / "shm", self._root / "tmp"):
            inside.mkdir(parents=True)
            _mount("tmpfs", inside, "tmpfs", 0, "size=4g")

    def enter(self) -> None:
        """Mount the processes of this namespace and make the new root that of this process."""
        (self._root / "proc").mkdir()
        _mount("proc", self._root / "proc", "proc", 0)
        _mount("none", self._root, None, _REMOUNT | _BIND | _READ_ONLY)
        os.chdir(self._root)
        _call("syscall", ctypes.c_long(_pivot_root()), b".", b".")
        _call("umount2", b".", _DETACH)
        os.chdir("/")


def _pivot_root() -> int:
    """Return the number of the system call, which the C library does not wrap.

    Raises:
        OSError: if it is not known for this machine.
    """
    numbers = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "s390x": 217, "riscv64": 41}
    try:
        return numbers[os.uname().machine]
    except KeyError as error:
        raise OSError(f"pivot_root is not known for {os.uname().machine}") from error


def _show_only(request: dict[str, Any]) -> None:
    """Show the program's folder, the model and the libraries, and nothing else.

    Raises:
        OSError: if the system does not allow it.
    """
    root, model = _Root(Path(request["root"])), Path(request["model"])
    root.show(Path(request["folder"]), Path("/program"))
    root.add_devices()
    root.add_scratch()
    paths = {*_libraries(), model, *_outside(model)}
    # Shorter paths first: what lies in a folder that is shown already is there.
    for path in sorted({path.resolve() for path in paths}, key=lambda path: len(path.parts)):
        root.show(path)
    for path in paths:
        root.link(path)
        root.hide(path / _HIDDEN)
    root.enter()


def _drop_privileges() -> None:
    """Drop the rights over the new namespaces, so that `exec` does not give them back either."""
    with suppress(OSError):
        _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        for number in range(64):
            if _libc.prctl(_DROP_FROM_BOUNDING, number, 0, 0, 0) != 0:
                break
        _call("capset", struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24))


def _become_idle() -> None:
    """Take only processor time that no other process asks for, as far as the system has a way."""
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # Linux weighs sessions first where it groups processes by them, and takes one such change in
    # a tenth of a second from all processes without rights over the whole system.
    for _ in range(50):
        try:
            Path("/proc/self/autogroup").write_text("19", encoding="ascii")
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            return
        else:
            return


def _become_program(request: dict[str, Any], files: list[int]) -> None:
    """Prepare this process for running the program, with nothing of the server left open."""
    # A session is a process group too.
    os.setsid()
    if request["idle"]:
        _become_idle()
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, 1 << 16)
    for name, value in request["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        # None can be above one that this process has, as by `ulimit -v`.
        own = [limit for limit in resource.getrlimit(kind) if limit != resource.RLIM_INFINITY]
        least = min([value, *own])
        resource.setrlimit(kind, (least, least))
    for name in ("SIGTERM", "SIGALRM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    _drop_privileges()
    sys.meta_path.insert(0, _Hidden)
    sys.argv = ["program.py", *request["arguments"]]


class _Hidden:
    """Finder that hides our package also where the files of this machine can be seen."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Refuse our package.

        Raises:
            ModuleNotFoundError: if it is asked for.
        """
        if name.partition(".")[0] == _HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _wait(program: int, seconds: int) -> int | None:
    """Return the status of a program, -N for signal N, None if it took too long.

    All processes of its group are ended with it, and also if this process is told to end.
    """
    late = False

    def end(number: int, _: Any) -> None:
        nonlocal late
        late = number == signal.SIGALRM
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
        if not late:
            os._exit(1)

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    signal.setitimer(signal.ITIMER_REAL, seconds)
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(program, signal.SIGKILL)
    return None if late else status


def _run(request: dict[str, Any], answers: int) -> None:
    """Run a program under supervision; return only in the process that has to run it.

    This process leaves the namespaces of the system. Its child is the first process of the new
    ones: when that ends, the kernel ends all others in it. The first process gets no signal that it
    does not handle, so the program is the second.
    """
    folder = Path(request["folder"])
    files = [os.open(folder.parent / "in", os.O_RDONLY)]
    files += [os.open(folder.parent / name, os.O_WRONLY) for name in ("out", "err")]
    read, write = os.pipe()
    # Until it is handled: the first process of a namespace ignores what it does not handle.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    enforced = _new_namespaces() if request["isolate"] else []
    first = os.fork()
    if first == 0:
        os.close(read)
        _end_with_parent()
        if enforced:
            with suppress(OSError):
                _show_only(request)
                enforced.append("files")
        os.chdir("/program" if "files" in enforced else folder)
        os.environ["HOME"] = "/tmp" if "files" in enforced else str(folder)  # noqa: S108
        program = os.fork()
        if program == 0:
            _become_program(request, files)
            return
        os.write(write, json.dumps([_wait(program, request["seconds"]), enforced]).encode())
        os._exit(0)
    os.close(write)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.waitpid(first, 0)
    told = os.read(read, 1 << 12)
    status, enforced = json.loads(told) if told else (-signal.SIGKILL, enforced)
    os.write(answers, json.dumps([request["id"], status, enforced]).encode() + b"\n")
    os._exit(0)


def _end_with_parent() -> None:
    with suppress(OSError):
        _call("prctl", _SET_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)


def _reap(*_: Any) -> None:
    # Waited for, not ignored: so its processor time counts as that of a child.
    with suppress(ChildProcessError):
        while ended := os.waitpid(-1, os.WNOHANG)[0]:
            _idle.discard(ended)


def _import(names: list[str]) -> None:
    # PEFT imports bitsandbytes where it is installed, which then tells of each kernel it lacks.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Python's collection of garbage takes a quarter of the time of such imports, and finds nothing.
    gc.disable()
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    gc.enable()


def _import_behind(names: list[str]) -> None:
    """Import modules in a thread that lets other processes go first, such as Ray that starts."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
    _import(names)


def _serve(requests: int, answers: int) -> None:
    """Fork for each request; return only in a process that has to run a program."""
    signal.signal(signal.SIGCHLD, _reap)
    for line in open(requests, "rb", buffering=0, closefd=False):  # noqa: SIM115 - closed by forks
        request = json.loads(line)
        if "end_idle" in request:
            for process in _idle.copy():
                os.kill(process, signal.SIGTERM)
            continue
        if "folder" in request:
            _import(request["modules"])
        else:
            # On Linux each thread has a priority of its own, so forks of this one have theirs.
            thread = threading.Thread(target=_import_behind, args=[request["modules"]])
            thread.start()
            thread.join()
        # A collection in a fork would write to, and so copy, all that was imported.
        gc.freeze()
        if "folder" not in request:
            continue
        # One that ends at once is not reaped before it is noted.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            _end_with_parent()
            _run(request, answers)
            return
        if request["idle"]:
            _idle.add(process)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    # The other side is gone or has finished: end all that still runs, and wait for it.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    with suppress(ChildProcessError):
        while True:
            os.wait()
    os._exit(0)


if __name__ == "__main__":
    own = [os.dup(0), os.dup(1)]
    for standard in (0, 1):
        os.dup2(os.open(os.devnull, os.O_RDWR), standard)
    _serve(*own)
    runpy.run_path("program.py", run_name="__main__")
    # End as Python would, but without the second that it takes to free every imported module.
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    sys.stdout.flush()
    os._exit(0)
