"""Instructions with answers: records `conversations: [user, assistant, ...]` in, a `Task` out.

This is the format of LIMA (Zhou et al. 2023, arXiv 2305.11206), a thousand curated pairs. Only the
first two turns of a conversation are used. The quality of an answer has no exact score: a metric
that the sweep file names (`exact_match`, `contains` or `bleu`) compares an output with the given
answer, which measures similarity, not quality. These data serve better as training data for
`ifeval`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kilobit.evaluators.metrics.bleu import TokenizerSetting
from kilobit.evaluators.metrics.metrics import metric_of
from kilobit.evaluators.tasks.published.splits import (
    BenchmarkTask,
    benchmark_task,
    divided,
    read_examples,
)
from kilobit.evaluators.tasks.sources import (
    Answer,
    LongestAnswer,
    Question,
    Records,
    Stop,
    TaskName,
    checked_text,
)
from kilobit.search.task import Example, Task, make_example


class InstructionsTask(BenchmarkTask):
    """Instructions with answers, in LIMA's format."""

    kind: Annotated[Literal["instructions"], Field(description="instructions with answers")]
    name: TaskName = "instructions"
    train: Annotated[Records, Field(description="records for training and for the search split")]
    search: Annotated[
        Records | None, Field(description="records of the search split; null: a share of `train`")
    ] = None
    sealed: Annotated[Records, Field(description="never used by a search")]
    metric: Annotated[
        Literal["exact_match", "contains", "bleu"],
        Field(description="the scoring rule; measures similarity to the given answer"),
    ]
    tokenizer: TokenizerSetting = None
    question: Question = "{input}\n\n"
    answer: Answer = "{target}\n\n"
    stop: Stop = ()
    max_new_tokens: LongestAnswer = 1280


def conversation_example(record: Mapping[str, Any], where: str) -> Example:
    """Return the first turn of a conversation as input and the second as target.

    Raises:
        ValueError: naming the record, if it lacks two turns of text.
    """
    field = f"{where}: field 'conversations'"
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2:
        has = "nothing" if turns is None else len(turns) if isinstance(turns, list) else "one value"
        raise ValueError(f"{field} must be a list of at least two texts, found {has}")
    texts: list[str] = []
    for number, turn in enumerate(turns[:2], 1):
        if not isinstance(turn, str):
            raise ValueError(f"{field}, turn {number} must be a text, found {type(turn).__name__}")
        texts.append(checked_text(turn, f"{field}, turn {number}"))
    return make_example(texts[0], texts[1])


def load_instructions(config: InstructionsTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid.
    """

    def read(source: Records) -> list[Example]:
        return read_examples(config, source, folder, conversation_example)

    given = None if config.search is None else read(config.search)
    train, search = divided(config, read(config.train), given)
    sealed = read(config.sealed)
    metric = metric_of(config.metric, config.tokenizer, [*train, *search, *sealed])
    return benchmark_task(config, metric, train, search, sealed)
