"""The tasks that a sweep file can name, and the loader of each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from kilobit.evaluators.named import NamedPart
from kilobit.evaluators.tasks.harness_task import HarnessTask, load_harness_task
from kilobit.evaluators.tasks.jsonl import DatasetTask, JsonlTask, load_dataset_task, load_jsonl
from kilobit.evaluators.tasks.miniature.catalogue import NUM_EXAMPLES, load_miniature
from kilobit.evaluators.tasks.published.conversations import InstructionsTask, load_instructions
from kilobit.evaluators.tasks.published.esnli import EsnliTask, load_esnli
from kilobit.evaluators.tasks.published.gsm8k import Gsm8kTask, load_gsm8k
from kilobit.evaluators.tasks.published.ifeval import IfevalTask, load_ifeval
from kilobit.evaluators.tasks.published.math import MathTask, load_math
from kilobit.evaluators.tasks.published.translation import (
    FloresTask,
    Wmt14Task,
    load_flores,
    load_wmt14,
)
from kilobit.evaluators.tasks.sources import TextTask
from kilobit.search.settings import Config
from kilobit.search.task import Task, near_duplicates


class MiniatureTask(Config):
    """One of the three built-in tasks; its items are generated."""

    kind: Annotated[Literal["miniature"], Field(description="a built-in task")]
    name: Annotated[
        Literal["numbers", "translation", "instructions"],
        Field(description="word problems, English to German, or checkable writing tasks"),
    ]
    seed: Annotated[int, Field(ge=0, description="seed of the items and their order")] = 0
    train_examples: Annotated[
        int,
        Field(ge=1, le=100_000, description="examples of the train split; the others have 512"),
    ] = NUM_EXAMPLES


class NamedTask(NamedPart):
    """A task of another package."""

    kind: Annotated[Literal["named"], Field(description="a task of another package")]
    name: Annotated[str, Field(min_length=1, description="label of the task in tables")]


AnyTask = (
    MiniatureTask
    | JsonlTask
    | DatasetTask
    | Gsm8kTask
    | MathTask
    | Wmt14Task
    | FloresTask
    | IfevalTask
    | EsnliTask
    | InstructionsTask
    | HarnessTask
    | NamedTask
)
TaskConfig = Annotated[AnyTask, Field(discriminator="kind")]


def _load_miniature(config: MiniatureTask, folder: Path) -> Task:
    return load_miniature(config.name, config.seed, config.train_examples)


def load_named_task(config: NamedTask, folder: Path) -> Task:
    """Return the task that a function of another package makes of settings and folder.

    Raises:
        ValueError: if it can't be imported, or makes no task.
    """
    made = config.make("kilobit.tasks", folder)
    if not isinstance(made, Task):
        raise ValueError(
            f"task {config.name}: {config.uses} made a {type(made).__name__}, not a "
            "kilobit.search.task.Task"
        )
    return replace(made, name=config.name)


_LOADERS: dict[type[Config], Callable[[Any, Path], Task]] = {
    MiniatureTask: _load_miniature,
    JsonlTask: load_jsonl,
    DatasetTask: load_dataset_task,
    Gsm8kTask: load_gsm8k,
    MathTask: load_math,
    Wmt14Task: load_wmt14,
    FloresTask: load_flores,
    IfevalTask: load_ifeval,
    EsnliTask: load_esnli,
    InstructionsTask: load_instructions,
    HarnessTask: load_harness_task,
    NamedTask: load_named_task,
}
TASK_KINDS: tuple[str, ...] = tuple(
    get_args(config.model_fields["kind"].annotation)[0] for config in _LOADERS
)


def load_task(config: AnyTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        ValueError: naming file and line, if its data are invalid.
    """
    task = _LOADERS[type(config)](config, folder)
    if isinstance(config, TextTask | HarnessTask) and config.balance:
        task = replace(task, splits=task.splits.balanced())
    if isinstance(config, TextTask | HarnessTask) and config.near_duplicates == "error":
        for found in near_duplicates(task.splits):
            raise ValueError(f"task {task.name}: {found}; `near_duplicates: count` allows them")
    return task
