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


def differences(there: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Return a text for each library that has another version than is wanted."""
    return [
        f"{name} {there.get(name)} instead of {version}"
        for name, version in wanted.items()
        if there.get(name) != version
    ]


def check_versions(of_the_driver: Mapping[str, str]) -> None:
    """Compare this node's libraries with the driver's.

    Raises:
        ValueError: naming node and versions, if they differ.
    """
    differing = differences(library_versions(), of_the_driver)
    if differing:
        raise ValueError(
            f"node {platform.node()} has {', '.join(differing)}: install the driver's versions "
            "there (pip install -c constraints.txt)"
        )
