"""A task on a data set that the `datasets` library loads, and a context without the hub.

The data set is on the hub, in its cache or in a folder. In the context no library fetches anything,
so data that are missing on this machine stay missing.

No code of a data set is executed. Splits are given in the library's own notation, for example
`train[:6000]`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kilobit.evaluators.tasks.jsonl import RecordTask, example_of, task_of
from kilobit.evaluators.tasks.sources import dataset_rows
from kilobit.search.settings import Config
from kilobit.search.task import Example, Task

_ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


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


@contextmanager
def offline() -> Iterator[None]:
    """Let the hub's libraries read their caches only, in this process and those it starts.

    Setting the environment alone is not enough: they read it when they are imported.
    """
    import datasets
    import huggingface_hub

    targets = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    with patched([(target, name, True) for target, name in targets]):
        try:
            os.environ.update(dict.fromkeys(_ENVIRONMENT, "1"))
            yield
        finally:
            for variable, value in environment.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value


@contextmanager
def patched(targets: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes of modules while the context is open: (module, name, value)."""
    before = [(target, name, getattr(target, name)) for target, name, _ in targets]
    try:
        for target, name, value in targets:
            setattr(target, name, value)
        yield
    finally:
        for target, name, value in before:
            setattr(target, name, value)
