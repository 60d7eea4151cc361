"""Division of a published data set into three splits that share no input.

The sealed split is the complete, unchanged published test set. Search examples are given, or are a
share of the training records chosen by the hash of the input, so repeated inputs stay in one split
and appending records moves no earlier record to another split. Inputs of the sealed split are
removed from the other two splits, and inputs of the search split from the train split, because
published sets contain duplicates and can't be edited. The same holds for clusters of examples.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from kilobit.evaluators.tasks.sources import Records, TextTask, in_cluster, read_records
from kilobit.search.task import Example, Metric, Task, make_splits, share

SEARCH_SHARE = 0.2


class BenchmarkTask(TextTask):
    """Settings that all benchmark tasks share."""

    search_share: float | None = Field(default=None, gt=0, lt=1)
    """share of the training records that becomes the search split, by the hash of the input or
    cluster; by default 0.2. Not allowed together with `search`"""

    @model_validator(mode="after")
    def _search_is_given_once(self) -> Self:
        if self.search_share is not None and getattr(self, "search", None) is not None:
            raise ValueError(
                "`search_share` divides the training records: give it or `search`, not both"
            )
        return self


def read_examples(
    config: BenchmarkTask,
    source: Records,
    folder: Path,
    example_of: Callable[[Mapping[str, Any], str], Example],
    *,
    required: bool = True,
) -> list[Example]:
    """Return the examples of `source` in their clusters.

    Args:
        config: the settings of the task.
        source: the records.
        folder: the base of relative paths.
        example_of: takes a record and its origin, and returns its example.
        required: every record needs the cluster's field, if the task has one.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid.
    """
    field = config.cluster_field
    return [
        in_cluster(example_of(record, where), record, field, where, required=required)
        for where, record in read_records(source, folder)
    ]


def without(examples: Iterable[Example], *splits: Iterable[Example]) -> list[Example]:
    """Return the examples whose input and cluster are in none of `splits`."""
    inputs, units = inputs_of(*splits), {example.unit for split in splits for example in split}
    return [e for e in examples if e.question not in inputs and e.unit not in units]


def inputs_of(*splits: Iterable[Example]) -> set[str]:
    """Return the set of inputs of these splits, without the answers that they offer."""
    return {example.question for split in splits for example in split}


def divided(
    config: BenchmarkTask, train: Sequence[Example], search: Sequence[Example] | None
) -> tuple[list[Example], list[Example]]:
    """Return train and search examples; if `search` is None, take a share of `train`."""
    if search is not None:
        return list(train), list(search)
    part = SEARCH_SHARE if config.search_share is None else config.search_share
    chosen = [share(example.cluster or example.input) < part for example in train]
    return (
        [example for example, taken in zip(train, chosen, strict=True) if not taken],
        [example for example, taken in zip(train, chosen, strict=True) if taken],
    )


def benchmark_task(
    config: BenchmarkTask,
    metric: Metric,
    train: Sequence[Example],
    search: Sequence[Example],
    sealed: Sequence[Example],
) -> Task:
    """Return the task of these examples; drop inputs and clusters that are in a later split too.

    Raises:
        ValueError: if a split becomes empty.
    """
    search = without(search, sealed)
    train = without(train, search, sealed)
    return Task(
        name=config.name,
        question=config.question,
        answer=config.answer,
        stop=config.stop,
        max_new_tokens=config.max_new_tokens,
        metric=metric,
        splits=make_splits(config.name, train, search, sealed, config.seed),
    )
