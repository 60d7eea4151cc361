"""WMT 2014, English and German (Bojar et al. 2014): news sentences, scored by corpus BLEU.

A record has `translation: {en, de}`, or there is one text file per language. The score is
sacrebleu's corpus BLEU with default settings over all outputs of a split, divided by 100. Racing
within a rung and plots use a score per sentence: sacrebleu's sentence BLEU with effective order.
Its mean is not the corpus score, and no program is promoted or certified on it.
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
    """Settings of WMT14 English-German, from the hub or from files."""

    kind: Annotated[Literal["wmt14"], Field(description="news sentences, English and German")]
    name: TaskName = "wmt14"
    direction: Annotated[Literal["en-de", "de-en"], Field(description="direction of translation")]
    train: Annotated[Pairs, Field(description="pairs for training and for the search split")]
    search: Annotated[
        Pairs | None, Field(description="pairs of the search split; null: a share of `train`")
    ] = None
    sealed: Annotated[Pairs, Field(description="the published test set")]


def load_wmt14(config: Wmt14Task, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid.
    """
    first, second = config.direction.split("-")
    given = None if config.search is None else read_pairs(config.search, folder, first, second)
    pairs = read_pairs(config.train, folder, first, second, to_learn=True)
    train, search = divided(config, pairs, given)
    sealed = read_pairs(config.sealed, folder, first, second)
    asking = config.naming(_NAMES[first], _NAMES[second])
    return benchmark_task(asking, METRICS["bleu"], train, search, sealed)
