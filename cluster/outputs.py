"""Check, before a command begins its work, that it can write its output."""

import tempfile
from pathlib import Path

from cluster.run_folder import check_reachable
from evaluators.storage import Place
from search.sweep import SweepError


def check_writable(option: str, folder: Place) -> None:
    """Check that files can be created in a folder, which need not exist; nothing is left there.

    Args:
        option: the option that names it, for the message: for example `-o all`.
        folder: for one in an object store, only check that the store answers.

    Raises:
        SweepError: naming the option, the path and the reason, if no file can be created.
    """
    if not isinstance(folder, Path):
        check_reachable(folder)
        return
    absolute = folder.absolute()
    place = next(path for path in (absolute, *absolute.parents) if _is_seen(path))
    try:
        # Try it: permissions do not show read-only file systems, and do not bind root.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise SweepError(f"{option}: can't be written: {place}: {reason}") from error


def _is_seen(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # This user may not look into its parent, which is tried instead.
        return False
