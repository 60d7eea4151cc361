import platform
from importlib.metadata import version

import pytest

from kilobit.cluster import messages
from kilobit.cluster.messages import LIBRARIES, check_versions, library_versions


def test_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = library_versions()
    assert set(found) == {"python", *LIBRARIES}
    assert found["torch"] == version("torch")
    monkeypatch.setattr(messages, "LIBRARIES", ("no-such-library",))
    assert library_versions()["no-such-library"] == "missing"


def test_a_node_like_the_driver_passes_and_another_is_named() -> None:
    check_versions(library_versions())
    expected = f"node {platform.node()} has torch {version('torch')} instead of 1.0"
    with pytest.raises(ValueError, match=expected.replace("+", r"\+")):
        check_versions(library_versions() | {"torch": "1.0"})
