"""A task on the user's own data: JSON Lines in, a `Task` out.

Every line holds one object. Splits come from three files, or from one file divided by fractions. In
the second case the hash of an input decides its split, so repeated inputs stay in one split and
appending lines moves no earlier line to another split. Errors name the file and the line.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluators.config import Config, LocalPath
from evaluators.metrics import Example
from evaluators.records import RecordTask, example_of, task_of
from evaluators.sources import json_lines
from evaluators.task import Task, share


class SplitFiles(Config):
    """One file per split, relative to the sweep file."""

    train: Annotated[LocalPath, Field(description="for training and for demonstrations")]
    search: Annotated[LocalPath, Field(description="candidates are compared on it")]
    sealed: Annotated[LocalPath, Field(description="never used by a search")]


class SplitFractions(Config):
    """Shares of one file; the rest after `search` and `sealed` is the train split."""

    search: Annotated[float, Field(gt=0, lt=1, description="candidates are compared on it")] = 0.25
    sealed: Annotated[float, Field(gt=0, lt=1, description="never used by a search")] = 0.25

    @model_validator(mode="after")
    def _leave_a_train_split(self) -> Self:
        if self.search + self.sealed >= 1:
            raise ValueError(
                "`search` and `sealed` leave no train split: their sum must be below 1"
            )
        return self


class JsonlTask(RecordTask):
    """A task read from JSON Lines files."""

    kind: Annotated[Literal["jsonl"], Field(description="JSON Lines files")]
    data: Annotated[
        LocalPath | None, Field(description="one file, divided by `fractions`; or give `files`")
    ] = None
    files: Annotated[SplitFiles | None, Field(description="one file for each split")] = None
    fractions: Annotated[SplitFractions | None, Field(description="shares of `data`")] = None

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if (self.data is None) == (self.files is None):
            raise ValueError("give either `data` (one file) or `files` (one file for each split)")
        if self.fractions is not None and self.files is not None:
            raise ValueError("`fractions` divides `data`: leave it out with `files`")
        return self


def read_jsonl(path: Path, config: JsonlTask) -> list[Example]:
    """Return the examples of a JSON Lines file; blank lines are skipped.

    Raises:
        ValueError: with file and line, if the file can't be read, is empty, or a line lacks the
            fields that `config` requires.
    """
    examples = [example_of(record, config, where) for where, record in json_lines(path)]
    if not examples:
        raise ValueError(f"{path}: the file holds no examples")
    return examples


def load_jsonl(config: JsonlTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        ValueError: for unreadable or malformed files, empty or overlapping splits.
    """
    if config.files is not None:
        files = config.files
        return task_of(
            config,
            folder,
            train=read_jsonl(folder / files.train, config),
            search=read_jsonl(folder / files.search, config),
            sealed=read_jsonl(folder / files.sealed, config),
        )
    assert config.data is not None
    cuts = config.fractions or SplitFractions()
    examples = read_jsonl(folder / config.data, config)
    last = cuts.search + cuts.sealed
    return task_of(
        config,
        folder,
        train=[e for e in examples if share(e.input) >= last],
        search=[e for e in examples if share(e.input) < cuts.search],
        sealed=[e for e in examples if cuts.search <= share(e.input) < last],
    )
