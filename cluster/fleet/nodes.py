"""Checks of the nodes of a cluster: this package, and the driver's versions of libraries.

Predictions of two versions of a library differ in their last digits, and then a program that one
node has found can't be verified on another. So every worker compares its own versions with those of
the driver. This package itself is sent to nodes that lack it or have another version.

This module imports no other module of this package, because its functions run on nodes that may
lack them.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = "kilobit"
_TIMEOUT_S = 120.0


@contextmanager
def own_code() -> Iterator[list[str]]:
    """Yield the folder that travels to nodes: our package as plain files, without links."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / PACKAGE
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
