"""A battery: evaluations besides a program's own task, configured by a YAML file."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kilobit.evaluators.battery.battery import (
    Evaluator,
    PerplexityEvaluator,
    TaskEvaluator,
    miniature_texts,
    texts_in,
)
from kilobit.evaluators.battery.games import GameEvaluator
from kilobit.evaluators.battery.safety import (
    RefusalJudge,
    Request,
    SafetyEvaluator,
    SafetySet,
    own_requests,
    requests_in,
    requests_of_set,
)
from kilobit.evaluators.named import NamedPart
from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS
from kilobit.evaluators.tasks.registry import MiniatureTask, TaskConfig, load_task
from kilobit.evaluators.text_files import text_lines
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.config_file import load_config
from kilobit.search.settings import Config, InputError

_MOST_BYTES = 1 << 28


class TaskItem(Config):
    """A task as in a search, evaluated on examples of its search split."""

    task: Annotated[TaskConfig, Field(description="as in a sweep file")]
    examples: Annotated[
        int, Field(ge=2, description="number of examples, from the start of its search split")
    ] = 48


class PerplexityItem(Config):
    """Bits per byte of held-out text."""

    file: Annotated[Path | None, Field(description="text; an empty line ends a passage")] = None
    texts: Annotated[int, Field(ge=2, description="passages from the file's start")] = 24


class SafetyItem(Config):
    """Requests that a model should answer or refuse."""

    file: Annotated[
        Path | None,
        Field(description="JSON Lines, or a published set as CSV; by default 30 built in"),
    ] = None
    set: Annotated[
        SafetySet | None, Field(description="the published set that `file` is, as CSV")
    ] = None
    max_new_tokens: Annotated[int, Field(ge=1, description="the longest answer")] = 24
    judge: Annotated[
        BaseModelConfig | None, Field(description="a model that decides instead of the rule")
    ] = None

    @model_validator(mode="after")
    def _a_set_has_a_file(self) -> Self:
        if self.set is not None and self.file is None:
            raise ValueError(f"`set: {self.set}` needs `file`, which does not come with kilobit")
        return self


class GameItem(Config):
    """Stories with choices that earn points and choices that break rules."""

    max_new_tokens: Annotated[int, Field(ge=1, description="the longest answer")] = 8


class HarnessItem(Config):
    """A task or group of the lm-evaluation-harness."""

    task: Annotated[str, Field(min_length=1, description="its name in the harness")]
    metric: Annotated[str, Field(description="a metric of single documents")] = "acc"
    examples: Annotated[int, Field(ge=1, description="documents of each of its tasks")] = 32
    include: Annotated[Path | None, Field(description="folder with custom tasks")] = None
    trust_task_code: Annotated[
        bool, Field(description="run the functions that custom task files name")
    ] = False
    better: Literal["higher", "lower"] = "higher"
    optional: Annotated[
        bool, Field(description="where its data are missing, the others are enough")
    ] = False


class Battery(Config):
    """Evaluations of a scorecard; `null` or an empty list leaves a part out."""

    tasks: Annotated[tuple[TaskItem, ...], Field(description="search tasks")] = tuple(
        TaskItem(task=MiniatureTask(kind="miniature", name=name))  # type: ignore[arg-type]
        for name in MINIATURE_TASKS
    )
    perplexity: PerplexityItem | None = PerplexityItem()
    safety: SafetyItem | None = SafetyItem()
    game: GameItem | None = GameItem()
    harness: Annotated[tuple[HarnessItem, ...], Field(description="measured if data are local")] = (
        HarnessItem(task="mmlu", examples=2, optional=True),
        HarnessItem(task="truthfulqa_mc2", optional=True),
        HarnessItem(task="hellaswag", metric="acc_norm", optional=True),
    )
    named: Annotated[tuple[NamedPart, ...], Field(description="of other packages")] = ()
    postprocess: Annotated[
        bool, Field(description="apply a program's post-processing here too")
    ] = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = (self.tasks, self.perplexity, self.safety, self.game, self.harness, self.named)
        if not any(parts):
            raise ValueError("there is nothing to measure")
        return self


def load_battery(path: Path | None) -> tuple[Battery, Path]:
    """Return the battery of a YAML file (None: the default) and the base of its relative paths.

    Raises:
        InputError: naming file and line, if it can't be used.
    """
    if path is None:
        return Battery(), Path()
    return load_config(path, Battery), path.absolute().parent


def evaluators_of(battery: Battery, folder: Path, judge: RefusalJudge | None) -> list[Evaluator]:
    """Return the evaluators of a battery, except those of the harness.

    Raises:
        InputError: if data can't be used, or two items have the same name.
    """
    try:
        found: list[Evaluator] = [
            TaskEvaluator(load_task(item.task, folder), item.examples) for item in battery.tasks
        ]
        if battery.perplexity is not None:
            found.append(PerplexityEvaluator(_texts(battery.perplexity, folder)))
        if battery.safety is not None:
            item = battery.safety
            requests = _requests(item, folder)
            found.append(SafetyEvaluator(requests, item.max_new_tokens, judge))
        if battery.game is not None:
            found.append(GameEvaluator(max_new_tokens=battery.game.max_new_tokens))
        found += [one.make("kilobit.battery", folder) for one in battery.named]
    except ValueError as error:
        raise InputError(str(error)) from error
    names = [one.name for one in found] + [item.task for item in battery.harness]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the battery has two items with the name {twice!r}")
    return found


def _requests(item: SafetyItem, folder: Path) -> list[Request]:
    if item.file is None:
        return own_requests()
    path = folder / item.file
    return requests_in(path) if item.set is None else requests_of_set(path, item.set)


def _texts(item: PerplexityItem, folder: Path) -> list[str]:
    if item.file is None:
        return miniature_texts(item.texts)
    path = folder / item.file
    found = texts_in("\n".join(text_lines(path, _MOST_BYTES)), item.texts)
    if not found:
        raise ValueError(f"{path}: no text")
    return found
