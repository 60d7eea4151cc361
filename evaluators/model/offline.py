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
    places = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    with exchanged([(place, name, True) for place, name in places]):
        try:
            os.environ.update(dict.fromkeys(_ENVIRONMENT, "1"))
            yield
        finally:
            for variable, value in environment.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value


@contextlib.contextmanager
def exchanged(places: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes of modules while the context is open: (module, name, value)."""
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    try:
        for place, name, value in places:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
