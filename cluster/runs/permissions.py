"""Permissions of run folders: programs of a run are executed, so only its owner may write there.

`KILOBIT_SHARED_RUNS=1` declares that other users are trusted: folders then get the permissions that
the umask gives them, and are used even if other users may write to them. It is not a setting of a
run, because a user who can write to a run could change it.
"""

import grp
import os
import pwd
import stat
from pathlib import Path

from kilobit.search.settings import InputError


def are_shared() -> bool:
    """Return whether this user trusts others with write access to run folders."""
    return os.environ.get("KILOBIT_SHARED_RUNS") == "1"


def make_folder(folder: Path) -> None:
    """Make the folder of a run, if it is missing; unless shared, only its owner has access."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o777 if are_shared() else 0o700, exist_ok=True)


def check_nobody_else_writes(folder: Path) -> None:
    """Check that no other user may write to the folder of a run.

    Raises:
        InputError: if another user may.
    """
    if are_shared():
        return
    about = folder.stat()
    if about.st_uid not in (os.geteuid(), 0):
        who = f"{_name_of(about.st_uid)} owns it"
    elif about.st_mode & stat.S_IWOTH:
        who = "everybody may"
    elif about.st_mode & stat.S_IWGRP and not _is_own_group(about.st_gid):
        who = f"the group {_group_of(about.st_gid)} may"
    else:
        return
    raise InputError(
        f"{folder} can be written by others ({who}), and programs in it are executed: "
        f"chmod go-w {folder}, or set KILOBIT_SHARED_RUNS=1 if they are to be trusted"
    )


def _is_own_group(gid: int) -> bool:
    """Return whether a group is this user's own, as many systems make one for each user."""
    try:
        return grp.getgrgid(gid).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
