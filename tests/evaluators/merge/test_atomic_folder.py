import errno
import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kilobit.evaluators.merge import atomic_folder
from kilobit.evaluators.merge.atomic_folder import publish, scratch_beside, temporary_folder


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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for temporary ones, in which nothing was looked for yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    atomic_folder._delete_left.cache_clear()
    return tmp_path


HOLD = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from kilobit.evaluators.merge.atomic_folder import temporary_folder
with temporary_folder("held") as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_has_is_not(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [sys.executable, "-c", HOLD, str(temporary)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    killed, living = (
        Path(((one.stdout and one.stdout.readline()) or "").strip()) for one in running
    )
    running[0].kill()
    running[0].wait()
    foreign = temporary / "kilobit-other"
    foreign.mkdir()
    link = temporary / "kilobit.link"
    link.symlink_to(foreign)
    with temporary_folder("new"):
        # Too new to know whether its process had the time to lock it.
        assert killed.exists()
    monkeypatch.setattr(atomic_folder, "_NEW_S", -1.0)
    atomic_folder._delete_left.cache_clear()
    with temporary_folder("new") as new:
        assert (killed.exists(), living.exists(), new.exists()) == (False, True, True)
        assert (foreign.exists(), link.is_symlink()) == (True, True)
    assert not new.exists()
    running[1].kill()
    running[1].wait()


def test_a_temporary_folder_is_deleted_whatever_was_made_of_it(temporary: Path) -> None:
    with temporary_folder("odd") as folder:
        outside = temporary / "outside"
        outside.mkdir()
        (folder / "link").symlink_to(outside)
        (folder / "locked" / "in").mkdir(parents=True)
        (folder / "locked").chmod(0)
    assert not folder.exists()
    with temporary_folder("replaced") as folder:
        folder.rmdir()
        folder.symlink_to(outside)
    assert list(temporary.iterdir()) == [outside]
