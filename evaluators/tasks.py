"""The tasks that a sweep file can name, and how one is loaded."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from evaluators.config import Config
from evaluators.hub import DatasetTask, load_dataset_task
from evaluators.jsonl import JsonlTask, load_jsonl
from evaluators.miniature.tasks import load_miniature
from evaluators.task import Task


class MiniatureTask(Config):
    """One of the three built-in tasks; its items are generated."""

    kind: Annotated[Literal["miniature"], Field(description="a built-in task")]
    name: Annotated[
        Literal["numbers", "translation", "instructions"],
        Field(description="word problems, English to German, or checkable writing tasks"),
    ]
    seed: Annotated[int, Field(ge=0, description="draws and orders the items")] = 0


TaskConfig = Annotated[MiniatureTask | JsonlTask | DatasetTask, Field(discriminator="kind")]


def load_task(config: MiniatureTask | JsonlTask | DatasetTask, folder: Path) -> Task:
    """Return the task that `config` describes, paths relative to `folder`.

    Raises:
        ValueError: if its data can't be used; the message names file and line.
    """
    if isinstance(config, JsonlTask):
        return load_jsonl(config, folder)
    if isinstance(config, DatasetTask):
        return load_dataset_task(config, folder)
    return load_miniature(config.name, config.seed)
