"""The Ray session of a run: a cluster of this machine's cores, or an existing one by its address.

A local session has no dashboard, listens with token authentication, and ends with the run.
"""

import logging
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to `address`, or start a local cluster with all cores and GPUs of this machine.

    Raises:
        ConnectionError: if no cluster answers at `address`.
    """
    if address is None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address or "local",
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
    )
    # Ray's own handler prints a stack and aborts; a scheduler's SIGTERM has to end a run in order.
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()
