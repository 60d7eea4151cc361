"""GSM8K: grade-school word problems with a number as answer (Cobbe et al. 2021, arXiv 2110.14168).

A record has `question` and `answer`, a worked solution that ends in `#### ` and the gold answer. An
output scores 1 if, after stripping white space, it is a number equal to the gold answer
(`kilobit.evaluators.metrics.metrics`), else 0. No number is searched for in an output: if a program
lets the model explain, extracting the last number is a step of the program and counts in its bits.

Further training data may come in MetaMath's format (Yu et al. 2023, arXiv 2309.12284): `query`,
`type`, and a `response` with the answer after `The answer is: `. Its problems derive from GSM8K's
train split, so a record is left out if its `query` or `original_question` is in the search split or
the sealed split.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from kilobit.evaluators.metrics.metrics import METRICS, plain_number
from kilobit.evaluators.tasks.published.splits import (
    BenchmarkTask,
    benchmark_task,
    divided,
    inputs_of,
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
    in_cluster,
    read_records,
    text_of,
)
from kilobit.search.task import Example, Task, make_example

GOLD_MARK = "####"
METAMATH_MARK = "The answer is:"
# Calculator annotations in the solutions, which are not part of their text.
_CALCULATOR = re.compile(r"<<[^<>]*>>")


class Gsm8kTask(BenchmarkTask):
    """Settings of GSM8K, from the hub or from files."""

    kind: Literal["gsm8k"]
    """grade-school word problems"""
    name: TaskName = "gsm8k"
    train: Records
    """records for training and for the search split"""
    search: Records | None = None
    """records of the search split; null: a share of `train`"""
    sealed: Records
    """the published test set"""
    metamath: tuple[Records, ...] = ()
    """more training records, in MetaMath's format"""
    metamath_types: tuple[str, ...] = ("GSM_",)
    """use only MetaMath records whose `type` begins with one of these"""
    shown: Literal["number", "solution"] = "number"
    """target of demonstrations and training"""
    question: Question = "Question: {input}\nAnswer:"
    answer: Answer = " {target}\n\n"
    stop: Stop = ("\n\n", "\nQuestion:")
    max_new_tokens: LongestAnswer = 320


def gsm8k_example(record: Mapping[str, Any], where: str, shown: str) -> Example:
    """Return the example in a record of GSM8K.

    Raises:
        ValueError: naming the record, if a field is missing or the gold answer is not a number.
    """
    question = text_of(record, "question", where)
    solution, mark, text = text_of(record, "answer", where).rpartition(GOLD_MARK)
    gold = plain_number(text)
    if not mark or gold is None:
        found = f"{text.strip()[:60]!r} after it" if mark else f"no {GOLD_MARK}"
        raise ValueError(
            f"{where}: field 'answer' must end in {GOLD_MARK} and a number, has {found}"
        )
    target = gold if shown == "number" else _tidy(f"{solution}{GOLD_MARK} {gold}")
    return make_example(question, target, {"gold": gold})


def _tidy(solution: str) -> str:
    """Return a solution without calculator annotations and empty lines, which end an answer."""
    lines = _CALCULATOR.sub("", solution).split("\n")
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _metamath(
    source: Records, folder: Path, config: Gsm8kTask, taken: Collection[str]
) -> Iterator[Example]:
    for where, record in read_records(source, folder):
        kind = text_of(record, "type", where)
        query, response = text_of(record, "query", where), text_of(record, "response", where)
        if not kind.startswith(config.metamath_types):
            continue
        if query in taken or record.get("original_question") in taken:
            continue
        target = _tidy(response)
        if config.shown == "number":
            _, mark, text = response.rpartition(METAMATH_MARK)
            if not mark:
                raise ValueError(f"{where}: field 'response' does not contain {METAMATH_MARK!r}")
            text = checked_text(text, f"{where}: field 'response'", METAMATH_MARK).strip()
            target = plain_number(text) or text
        example = make_example(query, target, {"type": kind})
        yield in_cluster(example, record, config.cluster_field, where, required=False)


def load_gsm8k(config: Gsm8kTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid.
    """

    def read(source: Records) -> list[Example]:
        return read_examples(
            config, source, folder, lambda record, at: gsm8k_example(record, at, config.shown)
        )

    given = None if config.search is None else read(config.search)
    train, search = divided(config, read(config.train), given)
    sealed = read(config.sealed)
    taken = inputs_of(search, sealed)
    for source in config.metamath:
        train += _metamath(source, folder, config, taken)
    return benchmark_task(config, METRICS["number"], train, search, sealed)
