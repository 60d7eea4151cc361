"""What tasks on people's own records share: which fields to read, how to ask, how to score."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evaluators.config import Config
from evaluators.judges import EndpointJudge
from evaluators.metrics import METRICS, Example, Metric
from evaluators.preference_metric import Preference
from evaluators.task import Task, make_example, make_splits


class RecordTask(Config):
    """The fields of a record and what is done with them."""

    name: Annotated[str, Field(min_length=1, description="label of the task in tables")]
    input_field: Annotated[str, Field(description="the key that holds the input")] = "input"
    target_field: Annotated[str, Field(description="the key that holds the target")] = "target"
    target_after: Annotated[
        str | None,
        Field(
            min_length=1,
            description="the target is what follows the last occurrence of this text in its field",
        ),
    ] = None
    question: Annotated[str, Field(description="what precedes an answer; contains {input}")] = (
        "{input}\n"
    )
    answer: Annotated[
        str, Field(description="an answer as a demonstration shows it; contains {target}")
    ] = "{target}\n"
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(description="strings that end a generation"),
    ] = ("\n",)
    max_new_tokens: Annotated[
        int, Field(ge=1, le=100_000, description="longest generation in tokens")
    ] = 64
    metric: Annotated[
        Literal["exact_match", "contains", "bleu", "preference"],
        Field(description="the scoring rule"),
    ]
    judge: Annotated[
        EndpointJudge | None,
        Field(description="for `preference`: who prefers an output or the target; has a cache"),
    ] = None
    seed: Annotated[int, Field(ge=0, description="fixes the order of the examples")] = 0

    @model_validator(mode="after")
    def _templates(self) -> Self:
        if self.question.count("{input}") != 1:
            raise ValueError("`question` must contain {input} once")
        if self.answer.count("{target}") != 1:
            raise ValueError("`answer` must contain {target} once")
        return self

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
            is empty, or `target_after` does not occur.
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
        values.append(_checked(str(value), f"{where}: field {field!r}"))
    text, target = values
    if config.target_after is not None:
        _, mark, target = target.rpartition(config.target_after)
        if not mark:
            raise ValueError(
                f"{where}: field {config.target_field!r} does not contain target_after "
                f"{config.target_after!r}"
            )
        _checked(target, f"{where}: field {config.target_field!r}", config.target_after)
    return make_example(text, target)


def _checked(text: str, field: str, mark: str = "") -> str:
    if not text.strip():
        # Every output that says nothing would be right, or there is nothing to ask.
        raise ValueError(f"{field} is empty{f' after {mark!r}' if mark else ''}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{field} holds half of a surrogate pair, which is no text") from error
    return text


def _metric_of(config: RecordTask, folder: Path) -> Metric:
    if config.judge is None:
        return METRICS[config.metric]
    return Preference(config.judge, folder)


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
