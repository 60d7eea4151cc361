"""Error text for a path that is not a run folder."""

from contextlib import suppress
from pathlib import Path

from evaluators.dataset import is_dataset
from evaluators.storage import Place

_RUNS_SHOWN = 5


def why_no_run(path: Place) -> str:
    """Return the reason why a path without `run.json` is not a run.

    Folders of an object store are not searched for runs: a listing may be long.
    """
    if is_dataset(path):
        return f"{path} is a data set, which front, report and aggregate read"
    if isinstance(path, Path):
        if not path.exists():
            return f"{path} holds no run: there is no such folder"
        if not path.is_dir():
            return f"{path} is a file, not the folder of a run"
        runs = _runs_in(path)
        if runs:
            more = f" and {len(runs) - _RUNS_SHOWN} more" if len(runs) > _RUNS_SHOWN else ""
            return f"{path} is not a run but contains runs: {', '.join(runs[:_RUNS_SHOWN])}{more}"
    return f"{path} holds no run: run.json is missing"


def _runs_in(folder: Path) -> list[str]:
    # A folder that this user may not list counts as one without runs.
    with suppress(OSError):
        return [str(file.parent) for file in sorted(folder.glob("*/run.json"))]
    return []
