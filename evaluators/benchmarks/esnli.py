"""e-SNLI: does one sentence follow from another, and why (Camburu et al. 2018, arXiv 1812.01193).

A record has `premise`, `hypothesis`, `label` (0 entailment, 1 neutral, 2 contradiction) and
`explanation_1`. The score of an output is 1 if the whole of it, white space aside, is the word of
the label, else 0. Where a program is to explain itself first, taking its last word is a step of the
program and is counted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from evaluators.benchmarks.dividing import BenchmarkTask, benchmark_task, divided
from evaluators.metrics import METRICS, Example
from evaluators.sources import Records, read_records, text_of
from evaluators.task import Task, make_example
from evaluators.text_task import Answer, LongestAnswer, Question, Stop, TaskName

LABELS = ("entailment", "neutral", "contradiction")


class EsnliTask(BenchmarkTask):
    """e-SNLI, from the hub or from its files."""

    kind: Annotated[Literal["esnli"], Field(description="entailment with explanations")]
    name: TaskName = "esnli"
    train: Annotated[Records, Field(description="records to learn from and to search on")]
    search: Annotated[
        Records | None, Field(description="records to compare on; null: a share of `train`")
    ] = None
    sealed: Annotated[Records, Field(description="the published test set")]
    shown: Annotated[
        Literal["label", "explanation"],
        Field(
            description="what demonstrations show and adapters learn: the label, or the "
            "explanation and then the label"
        ),
    ] = "label"
    question: Question = "{input}\nAnswer:"
    answer: Answer = " {target}\n\n"
    stop: Stop = ("\n",)
    max_new_tokens: LongestAnswer = 96


def esnli_example(record: Mapping[str, Any], where: str, shown: str) -> Example:
    """Return the example in a record.

    Raises:
        ValueError: naming the place, if a field is missing or the label is none of the three.
    """
    premise, hypothesis = text_of(record, "premise", where), text_of(record, "hypothesis", where)
    number = record.get("label")
    if isinstance(number, bool) or not isinstance(number, int) or number not in range(len(LABELS)):
        raise ValueError(f"{where}: field 'label' must be 0, 1 or 2, found {number!r:.60}")
    gold = target = LABELS[number]
    if shown == "explanation":
        # One line: a line break ends an answer.
        target = " ".join([*text_of(record, "explanation_1", where).split(), gold])
    text = f"Premise: {premise.strip()}\nHypothesis: {hypothesis.strip()}"
    return make_example(text, target, {"gold": gold})


def load_esnli(config: EsnliTask, folder: Path) -> Task:
    """Return the task, paths relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line of what can't be used.
    """

    def read(source: Records) -> list[Example]:
        rows = read_records(source, folder)
        return [esnli_example(record, where, config.shown) for where, record in rows]

    given = None if config.search is None else read(config.search)
    train, search = divided(config, read(config.train), given)
    return benchmark_task(config, METRICS["exact_match"], train, search, read(config.sealed))
