"""A task on a data set that the `datasets` library loads: from the hub, its cache or a folder.

No code of a data set is executed. Splits are given in the library's own notation, for example
`train[:6000]`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from evaluators.config import Config
from evaluators.metrics import Example
from evaluators.records import RecordTask, example_of, task_of
from evaluators.task import Task


class SplitNames(Config):
    """One expression a split, for example `train[:6000]`, `train[6000:]` and `test`."""

    train: Annotated[str, Field(description="may be learned from and shown")]
    search: Annotated[str, Field(description="candidates are compared on it")]
    sealed: Annotated[str, Field(description="never used by a search")]


class DatasetTask(RecordTask):
    """A task read through the `datasets` library."""

    kind: Annotated[Literal["dataset"], Field(description="a data set of the hub")]
    dataset: Annotated[
        str, Field(description="hub id, or a folder relative to the sweep file that begins with .")
    ]
    subset: Annotated[str | None, Field(description="name of the configuration")] = None
    revision: Annotated[str | None, Field(description="commit or tag on the hub; pin it")] = None
    splits: Annotated[SplitNames, Field(description="an expression for each split")]


class DatasetMissingError(ValueError):
    """The data set is neither on this machine nor within reach."""


def load_dataset_task(config: DatasetTask, folder: Path) -> Task:
    """Return the task that `config` describes.

    Raises:
        DatasetMissingError: if the data set is not on this machine and can't be fetched.
        ValueError: for unknown splits, malformed records, empty or overlapping splits.
    """
    import datasets

    datasets.disable_progress_bars()
    local = config.dataset.startswith(".")
    place = str(folder / config.dataset) if local else config.dataset

    def read(split: str) -> list[Example]:
        try:
            rows = datasets.load_dataset(
                place, config.subset, split=split, revision=config.revision
            )
        except (ConnectionError, FileNotFoundError) as error:
            raise DatasetMissingError(
                f"data set {place} is not on this machine and can't be fetched: {error}"
            ) from error
        except Exception as error:  # the library raises whatever its readers raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"data set {place}, split {split!r}: {reason}") from error
        return [
            example_of(row, config, f"data set {place}, split {split!r}, record {number}")
            for number, row in enumerate(rows)
        ]

    names = config.splits
    return task_of(config, folder, read(names.train), read(names.search), read(names.sealed))
