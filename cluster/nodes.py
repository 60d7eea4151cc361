"""Checks of the nodes of a cluster: this package, and the driver's versions of libraries.

Predictions of two versions of a library differ in their last digits, and then a program that one
node has found can't be verified on another. So every worker compares its own versions with those of
the driver. This package itself is sent to nodes that lack it or have another version.

This module imports no other module of this package, because its functions run on nodes that may
lack them.
"""

import hashlib
import importlib.util
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cluster", "search", "evaluators")
# The libraries that determine predictions, programs and their decoding.
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "zstandard", "brotli")
_TIMEOUT_S = 120.0


@contextmanager
def own_code() -> Iterator[list[str]]:
    """Yield the folders to send to nodes: this package, and its command line (`python -m launch`).

    The file of the command line is sent as a package, because not all Ray interfaces take a file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command_line = Path(scratch) / "launch"
        command_line.mkdir()
        # A file where it is installed, a package on a node that it was sent to.
        source = importlib.util.find_spec("launch")
        assert source is not None
        assert source.origin is not None
        shutil.copy(source.origin, command_line / "__init__.py")
        (command_line / "__main__.py").write_text(
            "import sys\n\nfrom launch import main\n\nsys.exit(main())\n"
        )
        yield [*(str(_place(name)) for name in PACKAGES), str(command_line)]


def code_digest() -> str | None:
    """Return a digest of this package's code, None where it is not installed."""
    digest = hashlib.sha256()
    for name in PACKAGES:
        folder = _place(name)
        if folder is None:
            return None
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{name}/{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _place(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent


def library_versions() -> dict[str, str]:
    """Return this node's versions of Python and of the libraries in `LIBRARIES`."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def check_versions(of_the_driver: Mapping[str, str]) -> None:
    """Compare this node's libraries with the driver's.

    Raises:
        ValueError: naming node and versions, if they differ.
    """
    here = library_versions()
    differing = [
        f"{name} {here.get(name)} instead of {wanted}"
        for name, wanted in of_the_driver.items()
        if here.get(name) != wanted
    ]
    if differing:
        raise ValueError(
            f"node {platform.node()} has {', '.join(differing)}: install the driver's versions "
            "there (pip install -c constraints.txt)"
        )


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
