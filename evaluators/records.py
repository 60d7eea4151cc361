"""Common settings of tasks on the user's own records: fields to read, templates, metric."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evaluators.judges import EndpointJudge
from evaluators.metrics import METRICS, Example, Metric
from evaluators.number import parse_number
from evaluators.preference_metric import Preference
from evaluators.sources import checked_text
from evaluators.task import Task, make_example, make_splits
from evaluators.text_task import TextTask


class RecordTask(TextTask):
    """Settings of a task on records: input field, target field and metric."""

    input_field: Annotated[str, Field(description="key of the input")] = "input"
    target_field: Annotated[str, Field(description="key of the target")] = "target"
    target_after: Annotated[
        str | None,
        Field(
            min_length=1,
            description="the target is the text after the last occurrence of this in its field",
        ),
    ] = None
    metric: Annotated[
        Literal["exact_match", "number", "contains", "bleu", "preference"],
        Field(description="the scoring rule"),
    ]
    judge: Annotated[
        EndpointJudge | None,
        Field(description="for `preference`: the judge of output against target; needs a cache"),
    ] = None

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
        ValueError: if the record is not an object with both fields as texts or numbers, one of them
            is empty, `target_after` does not occur, or the metric `number` finds no number.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: a JSON object is needed, found a {type(record).__name__}")
    values = []
    for field in (config.input_field, config.target_field):
        value = record.get(field)
        infinite = isinstance(value, float) and not math.isfinite(value)
        if infinite or isinstance(value, bool) or not isinstance(value, str | int | float):
            shown = "nothing" if field not in record else json.dumps(value, default=str)[:60]
            raise ValueError(
                f"{where}: field {field!r} must be a text or a number, found {shown}; the record "
                f"has the keys {sorted(record)}"
            )
        values.append(checked_text(str(value), f"{where}: field {field!r}"))
    text, target = values
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
    return make_example(text, target)


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
        metric=_metric_of(config, folder),
        splits=make_splits(config.name, train, search, sealed, config.seed),
    )


def _metric_of(config: RecordTask, folder: Path) -> Metric:
    if config.judge is None:
        return METRICS[config.metric]
    return Preference(config.judge, folder)
