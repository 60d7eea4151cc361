"""What tasks on people's own records share: which fields to read, how to ask, how to score."""

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
    """The fields of a record and what is done with them."""

    input_field: Annotated[str, Field(description="the key that holds the input")] = "input"
    target_field: Annotated[str, Field(description="the key that holds the target")] = "target"
    target_after: Annotated[
        str | None,
        Field(
            min_length=1,
            description="the target is what follows the last occurrence of this text in its field",
        ),
    ] = None
    metric: Annotated[
        Literal["exact_match", "number", "contains", "bleu", "preference"],
        Field(description="the scoring rule"),
    ]
    judge: Annotated[
        EndpointJudge | None,
        Field(description="for `preference`: who prefers an output or the target; has a cache"),
    ] = None

    @model_validator(mode="after")
    def _judge_where_one_is_asked(self) -> Self:
        if (self.metric == "preference") != (self.judge is not None):
            raise ValueError("`metric: preference` needs a `judge`, and no other metric has one")
        if self.judge is not None and self.judge.cache is None:
            raise ValueError(
                "the judge of a task needs a `cache`: outputs are scored more than once, and have "
                "to get the same score"
            )
        return self


def example_of(record: Any, config: RecordTask, where: str) -> Example:
    """Return the example in `record`.

    Args:
        record: what a file or a data set holds at one place.
        config: which fields to read.
        where: that place, for messages.

    Raises:
        ValueError: if the record is not an object with both fields as texts or numbers, one of them
            is empty, `target_after` does not occur, or the metric needs a number and finds none.
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
            f"{where}: field {config.target_field!r} is no number, which the metric `number` "
            f"needs: {target.strip()[:60]!r}"
        )
    return make_example(text, target)


def task_of(
    config: RecordTask,
    folder: Path,
    train: Sequence[Example],
    search: Sequence[Example],
    sealed: Sequence[Example],
) -> Task:
    """Return the task of these examples; relative paths of `config` begin at `folder`.

    Raises:
        ValueError: if a split is empty or two overlap, or the judge's key is not there.
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
