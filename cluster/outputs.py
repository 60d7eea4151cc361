"""Whether a command can write where it is told to, known before its work begins."""

import tempfile
from pathlib import Path

from cluster.run_folder import check_reachable
from evaluators.storage import Place
from search.sweep import SweepError


def check_writable(option: str, folder: Place) -> None:
    """Check that files can be made in a folder, which need not exist yet; nothing is left there.

    Args:
        option: what names it, as a message begins: for example `-o all`.
        folder: of a store it is only checked that the store answers.

    Raises:
        SweepError: naming the option, the place and the reason, if none can be made.
    """
    if not isinstance(folder, Path):
        check_reachable(folder)
        return
    absolute = folder.absolute()
    place = next(path for path in (absolute, *absolute.parents) if _is_seen(path))
    try:
        # By doing it: permissions say nothing of file systems that are read-only, nor to root.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise SweepError(f"{option}: can't be written: {place}: {reason}") from error


def _is_seen(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # It lies below a folder that is not ours to look into; that one is tried.
        return False
