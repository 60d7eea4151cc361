import errno
import fcntl
from pathlib import Path

import pytest

from kilobit.evaluators.merge.atomic_folder import publish, scratch_beside


def test_a_scratch_folder_is_beside_its_target_and_gone_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "all"

    def fail() -> None:
        with scratch_beside(out) as scratch:
            assert scratch.parent == out.parent
            assert not out.exists()
            (scratch / "file").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(out.parent.iterdir()) == []


def test_folders_of_killed_processes_are_deleted_and_those_at_work_stay(tmp_path: Path) -> None:
    left, working, other = (tmp_path / f".{name}.tmp" for name in ("all.1", "all.2", "al.3"))
    for folder in (left, working, other):
        folder.mkdir()
        (folder / "lock").touch()
    with (working / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with scratch_beside(tmp_path / "all"):
            assert not left.exists()
            assert working.exists()
            assert other.exists()


def test_a_full_disk_names_the_folder_and_other_errors_stay(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="nothing was written") as found,
        scratch_beside(tmp_path / "all"),
    ):
        raise OSError(errno.ENOSPC, "full", "scratch")
    assert found.value.filename == str(tmp_path / "all")
    other = PermissionError(errno.EACCES, "denied", "scratch")
    with pytest.raises(PermissionError, match="denied") as found, scratch_beside(tmp_path / "all"):
        raise other
    assert found.value is other


def test_publishing_replaces_own_files_and_keeps_foreign_ones(tmp_path: Path) -> None:
    out, made = tmp_path / "all", tmp_path / "made"
    out.mkdir()
    (out / "dataset.json").write_text("old")
    (out / "notes.txt").write_text("mine")
    made.mkdir()
    (made / "dataset.json").write_text("new")
    publish(made, out, ["dataset.json"])
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "dataset.json": "new",
        "notes.txt": "mine",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"all"}
