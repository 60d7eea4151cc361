"""The storage check of `doctor --address` where runs are on an object store."""

from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.cli import doctor
from kilobit.evaluators.ledger.stored_path import StoredPath


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what is sent to every node here, as if on two nodes."""

    def on_every_node(function: Any, *args: Any) -> dict[str, Any]:
        return {"10.0.0.1": function(*args), "10.0.0.2": function(*args)}

    monkeypatch.setattr(doctor, "on_every_node", on_every_node)


def test_a_store_that_all_nodes_read_is_shared(two_nodes: None, folder: StoredPath) -> None:
    found = doctor._storage(folder / "runs")
    assert (found.ok, found.found) == (True, "shared by all nodes")
    assert not list(folder.rglob("*"))


def test_a_node_without_credentials_is_named(
    folder: StoredPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"10.0.0.1": b"driver", "10.0.0.2": "there are no credentials"}
    monkeypatch.setattr(doctor, "on_every_node", lambda *_: answers)
    found = doctor._storage(folder / "runs")
    assert not found.ok
    assert found.found == "can't be read on 10.0.0.2: there are no credentials"
    assert "kilobit[store]" in found.remedy


def test_a_bucket_that_is_not_there_is_told(two_nodes: None, folder: StoredPath) -> None:
    found = doctor._storage(StoredPath("s3:", "no-such-bucket", "runs"))
    assert not found.ok
    assert "credentials" in found.remedy


def test_the_option_keeps_a_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    args = launch.parse(["doctor", "--address", "auto", "--out", "s3://bucket/runs"])
    assert str(args.out) == "s3://bucket/runs"
    assert isinstance(args.out, StoredPath)
