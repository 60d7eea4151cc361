"""A task on a data set that the `datasets` library loads: from the hub, its cache or a folder.

No code of a data set is executed. Splits are given in the library's own notation, for example
`train[:6000]`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kilobit.evaluators.tasks.jsonl import RecordTask, example_of, task_of
from kilobit.evaluators.tasks.sources import dataset_rows
from kilobit.search.settings import Config
from kilobit.search.task import Example, Task


class SplitNames(Config):
    """One expression per split, for example `train[:6000]`, `train[6000:]` and `test`."""

    train: Annotated[str, Field(description="for training and for demonstrations")]
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


def load_dataset_task(config: DatasetTask, folder: Path) -> Task:
    """Return the task that `config` describes.

    Raises:
        DatasetMissingError: if the data set is not on this machine and can't be fetched.
        ValueError: for unknown splits, malformed records, empty or overlapping splits.
    """

    def read(split: str) -> list[Example]:
        rows = dataset_rows(config.dataset, config.subset, config.revision, split, folder)
        return [example_of(row, config, where) for where, row in rows]

    names = config.splits
    return task_of(config, folder, read(names.train), read(names.search), read(names.sealed))
