"""A run folder that another user may write to is not used, unless others are trusted."""

import grp
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kilobit.cluster.runs import access
from kilobit.cluster.runs.folder import create_run, reopen_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.search.settings import InputError

Write = Callable[..., Path]


def test_a_folder_that_others_can_write_to_is_refused(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write_sweep(), tmp_path / "run"
    sweep = load_sweep(path)
    with create_run(sweep, path, out):
        pass
    # What a run finds out is nobody else's business unless it is said so.
    assert out.stat().st_mode & 0o777 == 0o700
    found = [(0o702, "everybody may")]
    if os.geteuid() == 0:
        other = next(group for group in grp.getgrall() if group.gr_name != "root")
        os.chown(out, -1, other.gr_gid)
        found.append((0o770, f"the group {other.gr_name} may"))
    for mode, who in found:
        out.chmod(mode)
        for use in (reopen_run(out), create_run(sweep, path, tmp_path / "open")):
            (tmp_path / "open").mkdir(exist_ok=True)
            (tmp_path / "open").chmod(0o777)
            with pytest.raises(InputError, match="can be written by others"), use:
                pass
        with pytest.raises(InputError, match=re.escape(f"({who})")), reopen_run(out):
            pass
    monkeypatch.setenv("KILOBIT_SHARED_RUNS", "1")
    with reopen_run(out), create_run(sweep, path, tmp_path / "open"):
        pass


@pytest.mark.parametrize(("shared", "mode"), [("", 0o700), ("0", 0o700), ("1", 0o755)])
def test_a_new_folder_is_its_owners_alone_unless_runs_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str, mode: int
) -> None:
    monkeypatch.setenv("KILOBIT_SHARED_RUNS", shared)
    before = os.umask(0o022)
    try:
        access.make_folder(tmp_path / "runs" / "one")
    finally:
        os.umask(before)
    assert (tmp_path / "runs" / "one").stat().st_mode & 0o777 == mode
    # The folder of all runs is no run's own.
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o755


def test_a_folder_that_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    access.make_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_a_folder_of_another_owner_is_refused_and_its_owner_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KILOBIT_SHARED_RUNS", raising=False)
    own = tmp_path.stat().st_uid
    access.check_nobody_else_writes(tmp_path)
    # This process becomes another user, as far as the check can see.
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    other = str(tmp_path)
    if own == 0:
        # Root's folders are used: root can write anywhere.
        access.check_nobody_else_writes(tmp_path)
        os.chown(tmp_path, 987654, -1)
        other = "user 987654 owns it"
    with pytest.raises(InputError, match=other):
        access.check_nobody_else_writes(tmp_path)
    monkeypatch.setenv("KILOBIT_SHARED_RUNS", "1")
    access.check_nobody_else_writes(tmp_path)


def test_a_group_of_only_this_user_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KILOBIT_SHARED_RUNS", raising=False)
    tmp_path.chmod(0o770)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="ada"))
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name="ada"))
    access.check_nobody_else_writes(tmp_path)
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name="staff"))
    with pytest.raises(InputError, match=r"\(the group staff may\).* chmod go-w"):
        access.check_nobody_else_writes(tmp_path)
