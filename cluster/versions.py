"""Versions of Python and of the libraries that decide predictions, on this node and on the driver.

Predictions of two versions of a library differ in their last digits, and then a program that one
node has found can't be verified on another. So every worker compares its own versions with those of
the driver.
"""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

# Libraries that decide predictions, programs and their decoding.
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy", "zstandard", "brotli")


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
