"""Checks of a machine and of a cluster, each with its remedy."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.cli import doctor
from kilobit.cluster.cli.doctor import Finding
from kilobit.cluster.messages import library_versions
from kilobit.evaluators.ledger.stored_path import StoredPath


def test_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    status = launch.main(["doctor"])
    shown = capsys.readouterr().out
    assert "transformers" in shown
    assert "starts," in shown
    # What is red depends on the machine; the exit status says the same as the marks.
    assert status == (1 if "!!" in shown else 0)


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
    """Let nodes 10.0.0.1, 10.0.0.2, ... give these answers, in place of a cluster's nodes."""
    found = {f"10.0.0.{number}": answer for number, answer in enumerate(answers, 1)}
    monkeypatch.setattr(doctor, "on_every_node", lambda *_: found)


def test_a_remedy_is_given_only_where_something_is_wrong() -> None:
    assert doctor.finding("disk", "1 GB", True, "buy one") == Finding("disk", "1 GB", ok=True)
    assert doctor.finding("disk", "1 GB", False, "buy one").remedy == "buy one"


def test_a_missing_library_is_named_with_the_way_to_install_it() -> None:
    assert doctor._package("pytest").found == pytest.__version__
    missing = doctor._package("no-package-of-this-name")
    assert (missing.ok, missing.found) == (False, "missing")
    assert missing.remedy.startswith("pip install")


@pytest.mark.parametrize(("size", "ok"), [(3_900_000_000, False), (4_000_000_000, True)])
def test_four_gigabytes_of_memory_are_enough(
    monkeypatch: pytest.MonkeyPatch, size: int, ok: bool
) -> None:
    monkeypatch.setattr(doctor, "free_memory", lambda: size)
    found = doctor._memory()
    assert (found.ok, found.found) == (ok, f"{size / 1e9:.1f} GB")
    assert ("workers.per_model" in found.remedy) is not ok


@pytest.mark.parametrize(("limit", "remedy"), [(4095, "ulimit -n 4096"), (4096, "")])
def test_few_open_files_are_a_finding(
    monkeypatch: pytest.MonkeyPatch, limit: int, remedy: str
) -> None:
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (limit, 1 << 20))
    assert doctor._open_files().remedy == remedy


def test_a_folder_that_can_not_be_written_is_no_place_for_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    usage = SimpleNamespace(free=5_000_000_000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert doctor._disk() == Finding("disk", f"5.0 GB free in {tmp_path}", ok=True)
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    found = doctor._disk()
    assert (found.ok, found.found) == (False, f"5.0 GB free in {tmp_path}, read-only")
    assert "--out" in found.remedy


def test_a_named_folder_is_checked_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("examine_machine", "_ports", "_ray"):
        none = [] if name == "examine_machine" else Finding(name, "", ok=True)
        monkeypatch.setattr(doctor, name, lambda none=none: none)
    (tmp_path / "file").write_text("no folder")
    assert launch.main(["doctor", "--out", str(tmp_path / "runs")]) == 0
    assert "can be written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert launch.main(["doctor", "--out", str(tmp_path / "file" / "runs")]) == 1
    assert "--out" in capsys.readouterr().out
    said = doctor._folder(tmp_path / "file" / "runs").found
    assert said == f"{tmp_path}/file/runs: can't be written: {tmp_path}/file: Not a directory"


def test_clocks_may_differ_by_a_few_seconds() -> None:
    # Between 100 and 110 no clock is seen to be wrong.
    right = {"a": 100.0, "b": 105.0, "c": 110.0}
    assert doctor._clocks(right, 100.0, 110.0) == Finding("clock skew", "0.0 s at most", ok=True)
    found = doctor._clocks(right | {"d": 96.0, "e": 113.0}, 100.0, 110.0)
    assert (found.ok, found.found) == (True, "4.0 s at most (d)")
    found = doctor._clocks(right | {"e": 115.5}, 100.0, 110.0)
    assert (found.ok, found.found) == (False, "5.5 s at most (e)")
    assert "NTP" in found.remedy
    assert not doctor._clocks({}, 100.0, 110.0).ok


def test_a_node_with_another_library_is_named() -> None:
    own = library_versions()
    found = doctor._versions({"a": own, "b": own | {"torch": "0.0.1"}})
    assert not found.ok
    assert found.found == f"b: torch 0.0.1 instead of {own['torch']}"
    assert doctor._versions({"a": own, "b": dict(own)}).found == "the same everywhere"


def test_a_cluster_without_a_token_is_open_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert (doctor._token().ok, doctor._token().found) == (False, "none")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert (doctor._token().ok, doctor._token().found) == (True, "in force")


def test_a_folder_that_all_nodes_write_to_is_shared_and_left_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def on_every_node(function: Any, *args: Any) -> dict[str, Any]:
        return {node: function(*args) for node in ("a", "b")}

    monkeypatch.setattr(doctor, "on_every_node", on_every_node)
    found = doctor._storage(tmp_path / "new" / "runs")
    assert found == Finding("shared storage", "shared by all nodes", ok=True)
    assert list((tmp_path / "new" / "runs").iterdir()) == []


def test_nodes_that_do_not_see_the_folder_are_counted_or_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def found(*see: bool) -> str:
        def on_every_node(function: Any, path: str) -> dict[str, Any]:
            # A node that sees another folder under the same path finds its own file there.
            return {f"n{place}": function(path) if here else True for place, here in enumerate(see)}

        monkeypatch.setattr(doctor, "on_every_node", on_every_node)
        return doctor._storage(tmp_path).found

    assert found(True, False).endswith("not shared or not writable on 1 of 2 nodes")
    answering(monkeypatch, True, False, OSError("gone"))
    assert doctor._storage(tmp_path).found.endswith("on 10.0.0.2, 10.0.0.3")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_made_is_a_finding() -> None:
    found = doctor._storage(Path("/proc/kilobit/runs"))
    assert not found.ok
    assert found.found.startswith("/proc/kilobit/runs: ")
    assert found.remedy == "choose another folder with --out"


def test_a_store_that_all_nodes_read_is_shared_and_left_empty(
    monkeypatch: pytest.MonkeyPatch, folder: StoredPath
) -> None:
    def on_every_node(function: Any, *args: Any) -> dict[str, Any]:
        return {node: function(*args) for node in ("a", "b")}

    monkeypatch.setattr(doctor, "on_every_node", on_every_node)
    found = doctor._storage(folder)
    assert found == Finding("shared storage", "shared by all nodes", ok=True)
    assert list(folder.glob("*")) == []
    answering(monkeypatch, b"driver", "no credentials")
    found = doctor._storage(folder)
    assert found.found == "can't be read on 10.0.0.2: no credentials"
    assert "kilobit[store]" in found.remedy


def test_a_node_writes_only_to_the_file_of_the_driver(tmp_path: Path) -> None:
    file = tmp_path / "probe"
    assert doctor._touch(str(file)) is False
    file.write_text("something else")
    assert doctor._touch(str(file)) is False
    assert file.read_text() == "something else"
    file.write_text("driver")
    assert doctor._touch(str(file)) is True
    assert file.read_text() == "driver."


def test_slow_or_cut_lines_between_nodes_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing to measure" in doctor._network(["10.0.0.1"]).found
    nodes = ["10.0.0.1", "10.0.0.2"]
    answering(monkeypatch, 250.0, 120.0)
    assert doctor._network(nodes).found == "gloo, 120 MB/s all-reduced"
    answering(monkeypatch, 250.0, 99.0)
    assert "world_size" in doctor._network(nodes).remedy
    answering(monkeypatch, 250.0, ConnectionError("trace\nno route to host"))
    found = doctor._network(nodes)
    assert (found.ok, found.found) == (False, "10.0.0.2: no route to host")
    assert "firewall" in found.remedy


def test_ports_of_this_machine_that_can_not_be_reached_are_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert doctor._ports().ok

    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "create_connection", refused)
    assert (doctor._ports().ok, doctor._ports().found) == (False, "refused")


def test_of_a_cluster_only_problems_and_what_it_has_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def session(address: str) -> Iterator[None]:
        assert address == "here:1"
        yield

    well = [Finding("Python", "3.12", ok=True), Finding("GPUs", "8", ok=True)]
    ill = [Finding("disk", "0 GB", ok=False, remedy="buy one"), Finding("GPUs", "none", ok=True)]
    answers = [(well, library_versions(), doctor.time.time()) for _ in range(2)]
    answers[1] = (ill, *answers[1][1:])
    answering(monkeypatch, *answers, RuntimeError("trace\nthe worker died"))
    monkeypatch.setattr(doctor, "ray_session", session)
    for name in ("_nodes", "_storage", "_network"):
        shown = Finding(name, "", ok=True)
        monkeypatch.setattr(doctor, name, lambda _, shown=shown: shown)
    findings = {one.what: one for one in doctor.examine_cluster("here:1", tmp_path)}
    assert list(findings) == [
        "token", "_nodes", "10.0.0.1: GPUs", "10.0.0.2: disk", "10.0.0.2: GPUs",
        "10.0.0.3: answer", "versions", "clock skew", "_storage", "_network",
    ]  # fmt: skip
    assert findings["10.0.0.2: disk"].remedy == "buy one"
    assert findings["10.0.0.3: answer"].found == "the worker died"


def test_a_ray_that_does_not_start_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def session() -> None:
        raise RuntimeError("no room in /tmp\nand a long trace")

    monkeypatch.setattr(doctor, "ray_session", session)
    found = doctor._ray()
    assert (found.ok, found.found) == (False, "no room in /tmp")
    assert "ray_current_cluster" in found.remedy


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
