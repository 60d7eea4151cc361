"""A driver on the cluster, for addresses that connect to the cluster only from outside.

`ray://HOST:PORT` (Ray client) and `http://HOST:PORT` (job submission) reach a cluster from outside.
Ray Tune, its searcher and the ledger have to be on the driver's machine, so the same command is run
on the cluster with a copy of our package, and its output is shown here. Paths have to be valid on
both sides: sweep file, data, models and run lie on storage that both share.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from kilobit.cluster.fleet.session import own_code
from kilobit.search.settings import InputError

_POLL_S = 0.5
_AGENT_S = 30.0
_CONNECT_S = 10.0
# The default port of the Ray client.
_CLIENT_PORT = 10001
_INTERRUPTED = 130


def is_outside(address: str | None) -> TypeGuard[str]:
    """Return whether an address is outside its cluster, so that the driver can't run here."""
    return address is not None and address.startswith(("ray://", "http://", "https://"))


def check_inside(address: str | None) -> None:
    """Check that an address connects to its cluster from inside.

    Raises:
        InputError: if it does not.
    """
    if is_outside(address):
        raise InputError(
            f"address: {address} connects from outside of the cluster: give HOST:PORT on one of "
            "its machines, or use the command line, which runs the command there"
        )


def drive(address: str, words: Sequence[str], show: Callable[[str], None]) -> int:
    """Run a command of ours on the cluster and return its exit status.

    Args:
        address: address of the cluster, from outside.
        words: the command with its arguments; an `--address` is added.
        show: is called with each piece of the command's output.

    Raises:
        ConnectionError: if nothing answers there, or packages to connect are not installed.
        KeyboardInterrupt: on a second Ctrl-C; the first one asks the driver there to stop cleanly.
    """
    try:
        run = _by_client if address.startswith("ray://") else _by_job
        return run(address, words, show)
    except ImportError as error:
        raise ConnectionError(
            f"{address.split(':')[0]}:// needs more packages here and on the cluster: pip install "
            f"'kilobit[outside]' ({error})"
        ) from error


def no_cluster(address: str | None, error: ConnectionError) -> InputError:
    """Return the error of an address at which no Ray cluster answers."""
    reason = str(error).strip().splitlines()[0]
    return InputError(
        f"--address: no Ray cluster that accepts our token answers at {address}: {reason}"
    )


class _Driver:
    """A process on the cluster that runs the command; an actor."""

    def __init__(self, words: Sequence[str]) -> None:
        import ray

        # Not `auto`: another cluster may run on the same node.
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "kilobit.launch", *words, "--address", address]
        # A file in memory, because a full pipe would block the command.
        self._output = os.memfd_create("output")
        self._read = 0
        self._process = subprocess.Popen(  # noqa: S603 - the words of our own user
            command, stdout=self._output, stderr=self._output
        )

    def poll(self) -> tuple[bytes, int | None]:
        """Return the output since the last call, and the exit status once the command has ended."""
        status = self._process.poll()
        new = os.pread(self._output, 1 << 20, self._read)
        self._read += len(new)
        return new, None if new else status

    def interrupt(self) -> None:
        """Ask the command to stop cleanly."""
        self._process.terminate()


def _by_client(address: str, words: Sequence[str], show: Callable[[str], None]) -> int:
    import ray

    _check_answers(address)
    # Check for gRPC first: without it Ray reports only a timeout.
    import_module("grpc")
    try:
        with own_code() as code:
            ray.init(address, runtime_env={"py_modules": code}, log_to_driver=False)
        actor_class: Any = ray.remote(_Driver)
        driver = actor_class.options(num_cpus=0, max_concurrency=2).remote(list(words))

        def poll() -> tuple[str, int | None]:
            text, status = ray.get(driver.poll.remote())
            return text.decode(errors="replace"), status

        return _follow(poll, driver.interrupt.remote, show)
    finally:
        ray.shutdown()


def _follow(
    poll: Callable[[], tuple[str, int | None]],
    interrupt: Callable[[], object],
    show: Callable[[str], None],
) -> int:
    """Show the output of a command until it ends, and return its exit status.

    Args:
        poll: returns the output since the last call, and the exit status once it has ended.
        interrupt: asks the command to stop cleanly; called on the first Ctrl-C.
        show: is called with each piece of output.
    """
    interrupted = False
    while True:
        try:
            text, status = poll()
            if text:
                show(text)
            if status is not None:
                return _INTERRUPTED if interrupted else status
            time.sleep(_POLL_S)
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            interrupt()


def _check_answers(address: str) -> None:
    """Check that a server listens at an address; Ray would report a failure after half a minute.

    Raises:
        ConnectionError: if none does, or the address names no host.
    """
    try:
        parts = urlsplit(address)
        if not parts.hostname:
            raise ConnectionError("the address names no host")
        there = (parts.hostname, parts.port or _CLIENT_PORT)
        socket.create_connection(there, timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        # An invalid host name or port is a ValueError.
        raise ConnectionError(str(error)) from error


def _by_job(address: str, words: Sequence[str], show: Callable[[str], None]) -> int:
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client: Any = JobSubmissionClient(address)
        # `auto` finds the cluster that the job runs on.
        entrypoint = shlex.join(["python", "-m", "kilobit.launch", *words, "--address", "auto"])
        with own_code() as code:
            job = _submit(client, entrypoint, code)
    except RuntimeError as error:
        raise ConnectionError(str(error).strip().splitlines()[0]) from error
    shown = 0

    def poll() -> tuple[str, int | None]:
        nonlocal shown
        info = client.get_job_info(job)
        text = client.get_job_logs(job)[shown:]
        shown += len(text)
        if not info.status.is_terminal():
            return text, None
        return text, 0 if info.status == JobStatus.SUCCEEDED else int(info.driver_exit_code or 1)

    return _follow(poll, partial(client.stop_job, job), show)


def _submit(client: Any, entrypoint: str, code: Sequence[str]) -> str:
    """Submit a job and return its id; retry while a new head node has no job agent yet."""
    deadline = time.monotonic() + _AGENT_S
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env={"py_modules": code}))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)
