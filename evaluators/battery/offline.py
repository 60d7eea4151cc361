"""Context in which no library fetches anything: data missing on this machine stay missing."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import datasets
import huggingface_hub

_ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Let the hub's libraries read their caches only, in this process and those it starts.

    Setting the environment alone is not enough: they read it when they are imported.
    """
    targets = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    with patched([(target, name, True) for target, name in targets]):
        try:
            os.environ.update(dict.fromkeys(_ENVIRONMENT, "1"))
            yield
        finally:
            for variable, value in environment.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value


@contextlib.contextmanager
def patched(targets: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes of modules while the context is open: (module, name, value)."""
    before = [(target, name, getattr(target, name)) for target, name, _ in targets]
    try:
        for target, name, value in targets:
            setattr(target, name, value)
        yield
    finally:
        for target, name, value in before:
            setattr(target, name, value)
