"""Division of a published data set into three splits that share no input.

The sealed split is the complete, unchanged published test set. Search examples are given, or are a
share of the training records chosen by the hash of the input, so repeated inputs stay in one split
and appending records moves no earlier record to another split. Inputs of the sealed split are
removed from the other two splits, and inputs of the search split from the train split, because
published sets contain duplicates and can't be edited.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Self

from pydantic import Field, model_validator

from kilobit.evaluators.tasks.text_task import TextTask
from kilobit.search.task import Example, Metric, Task, make_splits, share

SEARCH_SHARE = 0.2


class BenchmarkTask(TextTask):
    """Settings that all benchmark tasks share."""

    search_share: float | None = Field(default=None, gt=0, lt=1)
    """share of the training records that becomes the search split, by the hash of the input; by
    default 0.2. Not allowed together with `search`"""

    @model_validator(mode="after")
    def _search_is_given_once(self) -> Self:
        if self.search_share is not None and getattr(self, "search", None) is not None:
            raise ValueError(
                "`search_share` divides the training records: give it or `search`, not both"
            )
        return self


def without(examples: Iterable[Example], inputs: Collection[str]) -> list[Example]:
    """Return the examples whose input is not among `inputs`."""
    return [example for example in examples if example.input not in inputs]


def inputs_of(*splits: Iterable[Example]) -> set[str]:
    """Return the set of inputs of these splits."""
    return {example.input for split in splits for example in split}


def divided(
    config: BenchmarkTask, train: Sequence[Example], search: Sequence[Example] | None
) -> tuple[list[Example], list[Example]]:
    """Return train and search examples; if `search` is None, take a share of `train`."""
    if search is not None:
        return list(train), list(search)
    part = SEARCH_SHARE if config.search_share is None else config.search_share
    chosen = [share(example.input) < part for example in train]
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
    """Return the task of these examples; drop inputs that are also in a later split.

    Raises:
        ValueError: if a split becomes empty.
    """
    search = without(search, inputs_of(sealed))
    train = without(train, inputs_of(search, sealed))
    return Task(
        name=config.name,
        question=config.question,
        answer=config.answer,
        stop=config.stop,
        max_new_tokens=config.max_new_tokens,
        metric=metric,
        splits=make_splits(config.name, train, search, sealed, config.seed),
    )
