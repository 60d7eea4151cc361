"""Tasks on the user's own records: fields, questions, scoring; JSON Lines files and data sets.

Every line holds one object. Splits come from three files, or from one file divided by fractions. In
the second case the hash of an input, or of its cluster, decides its split, so repeated inputs stay
in one split and appending lines moves no earlier line to another split. Errors name the file and
the line.

A data set is one that the `datasets` library loads, on the hub, in its cache or in a folder, with
splits in the library's own notation, for example `train[:6000]`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kilobit.evaluators.judges.judges import EndpointJudge
from kilobit.evaluators.metrics.bleu import TokenizerSetting
from kilobit.evaluators.metrics.metrics import metric_of, parse_number
from kilobit.evaluators.named import MetricName
from kilobit.evaluators.tasks.sources import (
    TextTask,
    checked_text,
    dataset_rows,
    in_cluster,
    text_or_number,
)
from kilobit.evaluators.text_files import json_lines
from kilobit.search.settings import Config, LocalPath
from kilobit.search.task import Example, Metric, Task, make_example, make_splits, share


class RecordTask(TextTask):
    """Settings of a task on records: input field, target field and metric."""

    input_field: str = "input"
    """key of the input"""
    target_field: str = "target"
    """key of the target"""
    target_after: str | None = Field(default=None, min_length=1)
    """the target is the text after the last occurrence of this in its field"""
    metric: MetricName
    """the scoring rule: exact_match, number, contains, bleu, preference, or one of another package:
    MODULE:OBJECT or an entry point of the group kilobit.metrics"""
    tokenizer: TokenizerSetting = None
    judge: EndpointJudge | None = None
    """for `preference`: the judge of output against target; needs a cache"""

    @model_validator(mode="after")
    def _judge_where_one_is_asked(self) -> Self:
        if (self.metric == "preference") != (self.judge is not None):
            raise ValueError("`metric: preference` needs a `judge`, and no other metric has one")
        if self.judge is not None and self.judge.cache is None:
            raise ValueError(
                "the judge of a task needs a `cache`: outputs are scored more than once and must "
                "get the same score each time"
            )
        return self


def example_of(record: Any, config: RecordTask, where: str) -> Example:
    """Return the example in `record`.

    Args:
        record: one record of a file or a data set.
        config: the fields to read.
        where: file and line, or data set and record, for messages.

    Raises:
        ValueError: if the record is not an object with its fields as texts or numbers, one of them
            is empty, `target_after` does not occur, or the metric `number` finds no number.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: a JSON object is needed, found a {type(record).__name__}")
    text = text_or_number(record, config.input_field, where)
    target = text_or_number(record, config.target_field, where)
    if config.target_after is not None:
        _, mark, target = target.rpartition(config.target_after)
        if not mark:
            raise ValueError(
                f"{where}: field {config.target_field!r} does not contain target_after "
                f"{config.target_after!r}"
            )
        checked_text(target, f"{where}: field {config.target_field!r}", config.target_after)
    if config.metric == "number" and parse_number(target) is None:
        raise ValueError(
            f"{where}: field {config.target_field!r} must be a number for the metric `number`, "
            f"found {target.strip()[:60]!r}"
        )
    return in_cluster(make_example(text, target), record, config.cluster_field, where)


def task_of(
    config: RecordTask,
    folder: Path,
    train: Sequence[Example],
    search: Sequence[Example],
    sealed: Sequence[Example],
) -> Task:
    """Return the task of these examples; paths in `config` are relative to `folder`.

    Raises:
        ValueError: if a split is empty, two overlap, or the environment lacks the judge's key.
    """
    return Task(
        name=config.name,
        question=config.question,
        answer=config.answer,
        stop=config.stop,
        max_new_tokens=config.max_new_tokens,
        metric=_metric_of(config, folder, [*train, *search, *sealed]),
        splits=make_splits(config.name, train, search, sealed, config.seed),
    )


def _metric_of(config: RecordTask, folder: Path, examples: Sequence[Example]) -> Metric:
    if config.judge is None:
        return metric_of(config.metric, config.tokenizer, examples)
    from kilobit.evaluators.judges.preference_metric import Preference

    return Preference(config.judge, folder)


class SplitFiles(Config):
    """One file per split, relative to the sweep file."""

    train: LocalPath
    """for training and for demonstrations"""
    search: LocalPath
    """candidates are compared on it"""
    sealed: LocalPath
    """never used by a search"""


class SplitFractions(Config):
    """Shares of one file; the rest after `search` and `sealed` is the train split."""

    search: float = Field(default=0.25, gt=0, lt=1)
    """candidates are compared on it"""
    sealed: float = Field(default=0.25, gt=0, lt=1)
    """never used by a search"""
    seed: int = Field(default=0, ge=0)
    """each seed divides the file in another way"""

    def divide(self, examples: Sequence[Example]) -> tuple[list[Example], ...]:
        """Return the train, search and sealed examples; a cluster stays in one split."""
        parts: tuple[list[Example], ...] = ([], [], [])
        salt = f"{self.seed}\x1f" if self.seed else ""
        for example in examples:
            drawn = share(salt + (example.cluster or example.input))
            part = 1 if drawn < self.search else 2 if drawn < self.search + self.sealed else 0
            parts[part].append(example)
        return parts

    @model_validator(mode="after")
    def _leave_a_train_split(self) -> Self:
        if self.search + self.sealed >= 1:
            raise ValueError(
                "`search` and `sealed` leave no train split: their sum must be below 1"
            )
        return self


class JsonlTask(RecordTask):
    """A task read from JSON Lines files."""

    kind: Literal["jsonl"]
    """JSON Lines files"""
    data: LocalPath | None = None
    """one file, divided by `fractions`; or give `files`"""
    files: SplitFiles | None = None
    """one file for each split"""
    fractions: SplitFractions | None = None
    """shares of `data`"""

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
    return task_of(config, folder, *cuts.divide(read_jsonl(folder / config.data, config)))


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
