"""WMT 2014, English and German (Bojar et al. 2014): news sentences, scored by corpus BLEU.

A record has `translation: {en, de}`, or there is one text file a language. The score is sacrebleu's
corpus BLEU with default settings over all outputs of a split, divided by 100. Racing within a rung
and plots need a number for each sentence: sacrebleu's sentence BLEU with effective order, whose
mean is not the corpus score; a program is never promoted or certified on it.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from evaluators.benchmarks.dividing import benchmark_task, divided
from evaluators.benchmarks.pairs import Pairs, TranslationTask, read_pairs
from evaluators.metrics import METRICS
from evaluators.task import Task
from evaluators.text_task import TaskName

_NAMES = {"en": "English", "de": "German"}


class Wmt14Task(TranslationTask):
    """WMT14 English-German, from the hub or from its files."""

    kind: Annotated[Literal["wmt14"], Field(description="news sentences, English and German")]
    name: TaskName = "wmt14"
    direction: Annotated[
        Literal["en-de", "de-en"], Field(description="from which language to which")
    ]
    train: Annotated[Pairs, Field(description="pairs to learn from and to search on")]
    search: Annotated[
        Pairs | None, Field(description="pairs to compare on; null: a share of `train`")
    ] = None
    sealed: Annotated[Pairs, Field(description="the published test set")]


def load_wmt14(config: Wmt14Task, folder: Path) -> Task:
    """Return the task, paths relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line of what can't be used.
    """
    first, second = config.direction.split("-")
    given = None if config.search is None else read_pairs(config.search, folder, first, second)
    pairs = read_pairs(config.train, folder, first, second, to_learn=True)
    train, search = divided(config, pairs, given)
    sealed = read_pairs(config.sealed, folder, first, second)
    asking = config.naming(_NAMES[first], _NAMES[second])
    return benchmark_task(asking, METRICS["bleu"], train, search, sealed)
