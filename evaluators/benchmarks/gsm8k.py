"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al. 2021, arXiv 2110.14168).

A record has `question` and `answer`, a worked solution that ends in `#### ` and the gold answer.
The score of an output is 1 if the whole of it, white space aside, is a number equal to the gold
answer (`evaluators.number`), else 0. No number is searched for in an output: where a model explains
itself, taking the last number is a step of the program and is counted.

More training data may come in MetaMath's format (Yu et al. 2023, arXiv 2309.12284): `query`,
`response` that ends in `The answer is: `, `type`. Its problems were made from GSM8K's own train
split: a record whose `query` or `original_question` is in the search split is left out.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from evaluators.benchmarks.dividing import BenchmarkTask, benchmark_task, divided, inputs_of
from evaluators.metrics import METRICS, Example
from evaluators.number import plain_number
from evaluators.sources import Records, checked_text, read_records, text_of
from evaluators.task import Task, make_example
from evaluators.text_task import Answer, LongestAnswer, Question, Stop, TaskName

GOLD_MARK = "####"
METAMATH_MARK = "The answer is:"
# What a calculator was asked while the solutions were written; no part of their text.
_CALCULATOR = re.compile(r"<<[^<>]*>>")


class Gsm8kTask(BenchmarkTask):
    """GSM8K, from the hub or from its files."""

    kind: Annotated[Literal["gsm8k"], Field(description="grade-school word problems")]
    name: TaskName = "gsm8k"
    train: Annotated[Records, Field(description="records to learn from and to search on")]
    search: Annotated[
        Records | None, Field(description="records to compare on; null: a share of `train`")
    ] = None
    sealed: Annotated[Records, Field(description="the published test set")]
    metamath: Annotated[
        tuple[Records, ...], Field(description="more training records, in MetaMath's format")
    ] = ()
    metamath_types: Annotated[
        tuple[str, ...],
        Field(description="which of them: those whose `type` begins with one of these"),
    ] = ("GSM_",)
    shown: Annotated[
        Literal["number", "solution"],
        Field(description="what demonstrations show and adapters learn"),
    ] = "number"
    question: Question = "Question: {input}\nAnswer:"
    answer: Answer = " {target}\n\n"
    stop: Stop = ("\n\n", "\nQuestion:")
    max_new_tokens: LongestAnswer = 320


def gsm8k_example(record: Mapping[str, Any], where: str, shown: str) -> Example:
    """Return the example in a record of GSM8K.

    Raises:
        ValueError: naming the place, if a field is missing or the gold answer is no number.
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
    """Return a solution without calculator notes and without empty lines, which end an answer."""
    lines = _CALCULATOR.sub("", solution).splitlines()
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
        yield make_example(query, target, {"type": kind})


def load_gsm8k(config: Gsm8kTask, folder: Path) -> Task:
    """Return the task, paths relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line of what can't be used.
    """

    def read(source: Records) -> list[Example]:
        rows = read_records(source, folder)
        return [gsm8k_example(record, where, config.shown) for where, record in rows]

    given = None if config.search is None else read(config.search)
    train, search = divided(config, read(config.train), given)
    sealed = read(config.sealed)
    taken = inputs_of(search, sealed)
    for source in config.metamath:
        train += _metamath(source, folder, config, taken)
    return benchmark_task(config, METRICS["number"], train, search, sealed)
