"""What a person is told who names a place that holds no run."""

from contextlib import suppress
from pathlib import Path

from evaluators.dataset import is_dataset
from evaluators.storage import Place

_RUNS_SHOWN = 5


def why_no_run(path: Place) -> str:
    """Return what is found at a place without `run.json`.

    Below a folder of a store nothing is looked for: a listing may be long.
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
            return f"{path} is no run but holds runs: {', '.join(runs[:_RUNS_SHOWN])}{more}"
    return f"{path} holds no run: run.json is missing"


def _runs_in(folder: Path) -> list[str]:
    # Whoever may not look into a folder is told no more than that it is no run.
    with suppress(OSError):
        return [str(file.parent) for file in sorted(folder.glob("*/run.json"))]
    return []
