"""The Ray session of a run: a cluster of this machine's cores, or an existing one by its address.

A local session has no dashboard, listens with token authentication, and ends with the run.
"""

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_KNOCK_S = 5.0


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to `address`, or start a local cluster with all cores and GPUs of this machine.

    Raises:
        ConnectionError: if no cluster that takes our token answers at `address`.
    """
    if address is not None:
        _knock(address)
    if address is None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except ray.exceptions.AuthenticationError as error:
        raise ConnectionError("it asks for a token that is not RAY_AUTH_TOKEN") from error
    except ValueError as error:
        raise ConnectionError(f"not an address: {error}") from error
    # Ray's own handler prints a stack and aborts; a scheduler's SIGTERM has to end a run in order.
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Try the port of a plain HOST:PORT first: Ray takes a minute to say that nobody is there.

    Raises:
        ConnectionError: if nobody answers.
    """
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from error
