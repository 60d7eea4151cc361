"""The Ray session of a run: a cluster of this machine's cores, or an existing one by its address.

A local session has no dashboard, requires token authentication, and ends with the run. If nodes of
an existing cluster lack our package or have another version of it, this version is sent to them.

This module imports no other module of this package, because its functions run on nodes that may
lack them.
"""

import ctypes
import hashlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from kilobit.evaluators.merge.atomic_folder import temporary_folder

Made = TypeVar("Made")
PACKAGE = "kilobit"
_KNOCK_S = 5.0
_TIMEOUT_S = 120.0
# The address of the session of this process, as it was given; Ray knows it by another name.
_CONNECTED: list[str | None] = []
# Set once a Ray that was started before it is asked for is there, or does not start.
_STARTED: list[threading.Event] = []


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to `address`, or start a local cluster with all cores and GPUs of this machine.

    A session that this process has there already, without an address any, is used and left running.

    Raises:
        ConnectionError: if no cluster that accepts our token answers at `address`.
        PoolError: if Ray does not start on this machine.
    """
    import ray

    if _STARTED:
        # Before it is taken, so that after Ctrl-C in between `Beforehand` still ends it.
        _STARTED[-1].wait()
        _STARTED.pop()
        if ray.is_initialized():
            # From here on it ends with this session.
            try:
                yield
            finally:
                _shut_down()
            return
    if ray.is_initialized() and (
        address in (None, "auto", *_CONNECTED) or address == ray.get_runtime_context().gcs_address
    ):
        # The session of a notebook, a script or this command: use it, and leave it as it is.
        yield
        return
    if address is not None:
        _knock(address)
    else:
        _require_token()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    _connect(address)
    try:
        if address is not None and lack_our_code():
            # Ray takes the code to send only when a driver connects, so connect again.
            _shut_down()
            with own_code() as code:
                _connect(address, py_modules=code)
    except BaseException:
        _shut_down()
        raise
    # Ray's own handler prints a stack and aborts; a job scheduler's SIGTERM must end a run cleanly.
    _handle(signal.SIGTERM, on_sigterm)
    _CONNECTED.append(address)
    try:
        yield
    finally:
        _CONNECTED.clear()
        _shut_down()


class Beforehand(Generic[Made]):
    """A Ray on this machine that starts beside what is done in this context, if there is none.

    Starting takes seconds in which Ray mostly waits. `ray_session` waits for it, and uses it.

    Args:
        make: makes an object in the new session.
    """

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make, self._made = make, list[Made]()
        self._started, self._over = threading.Event(), threading.Event()

    def take(self) -> Made | None:
        """Return the object that was made, None if there is none."""
        self._started.wait()
        return self._made.pop() if self._made else None

    def __enter__(self) -> Self:
        # In this thread: two threads must not import the same libraries at once.
        import ray

        if ray.is_initialized():
            self._started.set()
            return self
        _require_token()
        threading.Thread(target=self._start, daemon=True).start()
        _STARTED.append(self._started)
        return self

    def __exit__(self, *_: object) -> None:
        self._started.wait()
        if self._started in _STARTED:
            _STARTED.remove(self._started)
            _shut_down()
        self._over.set()

    def _start(self) -> None:
        # A Ray that does not start is started once more by `ray_session`, which reports why not.
        with suppress(Exception):
            with _sigterm_kept():
                _connect(None)
            self._made.append(self._make())
        self._started.set()
        # Linux ends Ray's processes together with the thread that started them.
        self._over.wait()


def _require_token() -> None:
    """Let a session that starts on this machine accept only processes that know its token."""
    from ray import _raylet

    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    # Ray has read its settings already if it was imported before kilobit.
    _raylet.Config.initialize("")  # type: ignore[attr-defined]
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


@contextmanager
def ray_kept() -> Iterator[None]:
    """Turn `ray.shutdown` into nothing while the context is open, for code that is not ours.

    Models of the lm-evaluation-harness that run on vLLM end with one.
    """
    ray = sys.modules.get("ray")
    if ray is None:
        yield
        return
    shutdown = ray.shutdown
    ray.shutdown = lambda *_, **__: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        ray.shutdown = shutdown  # type: ignore[attr-defined]


def _shut_down() -> None:
    """Shut Ray down and ignore Ctrl-C meanwhile: it would only cause a traceback of Ray."""
    import ray

    on_sigint = signal.getsignal(signal.SIGINT)
    _handle(signal.SIGINT, signal.SIG_IGN)
    try:
        ray.shutdown()
    finally:
        _handle(signal.SIGINT, on_sigint)


def _handle(number: int, handler: Any) -> None:
    """Set the handler of a signal; only the main thread receives signals and may set it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep the process's handler of SIGTERM, which Ray's core replaces by one that aborts.

    In another thread than the main one only the C library can do that; what it fills is opaque.
    """
    library, kept = ctypes.CDLL(None), ctypes.create_string_buffer(1024)
    library.sigaction(signal.SIGTERM, None, kept)
    try:
        yield
    finally:
        library.sigaction(signal.SIGTERM, kept, None)


def _log(data: Any, ignore_prefix: bool) -> None:
    """Log lines that Ray would print."""
    for line in data["lines"]:
        logging.getLogger("kilobit").debug("Ray: %s", line)


def _connect(address: str | None, **runtime_env: object) -> None:
    import ray
    from ray._private import worker

    from kilobit.cluster.messages import PoolError
    from kilobit.evaluators.cpus_and_memory import cpus

    # Ray prints errors of all its processes, which are reported or repaired, and those of its end.
    worker.print_to_stdstream = _log
    try:
        with nullcontext() if address else _without_monitors():
            ray.init(
                address=address or "local",
                num_cpus=None if address else cpus(),
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                runtime_env=runtime_env or None,
            )
        node: Any = worker._global_node  # noqa: SLF001
        if address is None and node is not None:
            # Ray makes it writable for all users, with logs that may show the environment.
            Path(node.get_session_dir_path()).chmod(0o700)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        if address is None and "AF_UNIX" in reason:
            raise PoolError(
                f"TMPDIR: {tempfile.gettempdir()} is too long for the sockets that Ray makes there "
                "(107 bytes with their names): set TMPDIR to a folder of at most 40 letters"
            ) from error
        if address is None:
            raise PoolError(
                f"Ray did not start on this machine, which may be too busy: {reason}; give the "
                "command again"
            ) from error
        if isinstance(error, ray.exceptions.AuthenticationError):
            reason = "it requires a token that RAY_AUTH_TOKEN does not hold"
        elif isinstance(error, ValueError):
            reason = f"not an address: {error}"
        elif "Version mismatch" in str(error):
            # The versions of Ray and Python have to be the same on both sides.
            reason = str(error)
        raise ConnectionError(reason) from error


@contextmanager
def _without_monitors() -> Iterator[None]:
    """Start Ray without the processes that watch its logs and scale it, which have no use here.

    They take two processor seconds while a run starts. `ray.init` has no argument for them.
    """
    from ray._private import parameter

    usual = parameter.RayParams
    without: Any = {"include_log_monitor": False, "no_monitor": True}
    parameter.RayParams = partial(usual, **without)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        parameter.RayParams = usual  # type: ignore[misc]


def _knock(address: str) -> None:
    """Check first that a plain HOST:PORT answers: Ray takes a minute to report that it does not.

    Raises:
        ConnectionError: if the port does not answer.
    """
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from error


@contextmanager
def own_code() -> Iterator[list[str]]:
    """Yield the folder that travels to nodes: our package as plain files, without links."""
    with temporary_folder("code") as scratch:
        folder = scratch / PACKAGE
        source = _folder()
        assert source is not None
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
        yield [str(folder)]


def code_digest() -> str | None:
    """Return a digest of our package's code here, None where it is not installed."""
    folder = _folder()
    if folder is None:
        return None
    digest = hashlib.sha256()
    # In a checkout the packages are links, which `Path.rglob` does not follow.
    walk = os.walk(folder, followlinks=True)
    files = (Path(path, name) for path, _, names in walk for name in names)
    for file in sorted(file for file in files if file.suffix == ".py"):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _folder() -> Path | None:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent


def on_every_node(function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Call a function on every node that is alive; return results or errors by the node's address.

    The function is sent by value, so the nodes need not have this package, as long as the
    function's module imports nothing else of it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    refs = {
        node["NodeManagerAddress"]: ray.remote(function)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(*args)
        for node in ray.nodes()
        if node["Alive"]
    }
    done, _ = ray.wait(list(refs.values()), num_returns=len(refs), timeout=_TIMEOUT_S)
    found: dict[str, Any] = {}
    for address, ref in refs.items():
        try:
            found[address] = ray.get(ref) if ref in done else TimeoutError(f"{_TIMEOUT_S:g} s")
        except ray.exceptions.RayError as error:
            found[address] = error
    return found


def lack_our_code() -> list[str]:
    """Return the addresses of the nodes that lack this package or have another version."""
    own = code_digest()
    return [address for address, there in on_every_node(code_digest).items() if there != own]
