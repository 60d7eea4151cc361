"""e-SNLI: entailment between two sentences, with explanations (Camburu 2018, arXiv 1812.01193).

A record has `premise`, `hypothesis`, `label` (0 entailment, 1 neutral, 2 contradiction) and
`explanation_1`. An output scores 1 if, after stripping white space, it equals the label's word,
else 0. If a program lets the model explain first, extracting the last word is a step of the program
and counts in its bits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kilobit.evaluators.metrics.metrics import METRICS
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
    text_of,
)
from kilobit.search.task import Example, Task, make_example

LABELS = ("entailment", "neutral", "contradiction")


class EsnliTask(BenchmarkTask):
    """Settings of e-SNLI, from the hub or from files."""

    kind: Literal["esnli"]
    """entailment with explanations"""
    name: TaskName = "esnli"
    train: Records
    """records for training and for the search split"""
    search: Records | None = None
    """records of the search split; null: a share of `train`"""
    sealed: Records
    """the published test set"""
    shown: Literal["label", "explanation"] = "label"
    """target of demonstrations and training: the label, or the explanation and then the label"""
    question: Question = "{input}\nAnswer:"
    answer: Answer = " {target}\n\n"
    stop: Stop = ("\n",)
    max_new_tokens: LongestAnswer = 96


def esnli_example(record: Mapping[str, Any], where: str, shown: str) -> Example:
    """Return the example in a record.

    Raises:
        ValueError: naming the record, if a field is missing or the label is not 0, 1 or 2.
    """
    premise, hypothesis = text_of(record, "premise", where), text_of(record, "hypothesis", where)
    number = record.get("label")
    if isinstance(number, bool) or not isinstance(number, int) or number not in range(len(LABELS)):
        raise ValueError(f"{where}: field 'label' must be 0, 1 or 2, found {number!r:.60}")
    gold = target = LABELS[number]
    if shown == "explanation":
        # Join it to one line, because a line break ends an answer.
        target = " ".join([*text_of(record, "explanation_1", where).split(), gold])
    text = f"Premise: {premise.strip()}\nHypothesis: {hypothesis.strip()}"
    return make_example(text, target, {"gold": gold})


def load_esnli(config: EsnliTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid.
    """

    def read(source: Records) -> list[Example]:
        return read_examples(
            config, source, folder, lambda record, at: esnli_example(record, at, config.shown)
        )

    given = None if config.search is None else read(config.search)
    train, search = divided(config, read(config.train), given)
    return benchmark_task(config, METRICS["exact_match"], train, search, read(config.sealed))
