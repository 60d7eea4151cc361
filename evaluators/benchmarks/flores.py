"""FLORES-200: translation between any two of two hundred languages (arXiv 2207.04672).

The data have two published splits with one file per language: `dev/eng_Latn.dev` (997 sentences) is
divided into train and search, `devtest/eng_Latn.devtest` (1,012 sentences) is sealed. Records of a
data set hold `sentence_eng_Latn` and so on for both languages. The score is corpus BLEU as in
`wmt14`; sacrebleu's default tokenizer suits languages that put spaces between words.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluators.benchmarks.dividing import benchmark_task, divided
from evaluators.benchmarks.pairs import TranslationTask, text_pairs
from evaluators.metrics import METRICS, Example
from evaluators.sources import Records, read_records, text_of
from evaluators.task import Task, make_example
from evaluators.text_task import TaskName

_CODE = r"^[a-z]{3}_[A-Z][a-z]{3}$"


class FloresTask(TranslationTask):
    """Settings of FLORES-200, from the hub or from its folder."""

    kind: Annotated[Literal["flores"], Field(description="sentences in 200 languages")]
    name: TaskName = "flores"
    source: Annotated[
        str, Field(pattern=_CODE, description="code of the source language, e.g. eng_Latn")
    ]
    target: Annotated[
        str, Field(pattern=_CODE, description="code of the target language, e.g. deu_Latn")
    ]
    source_name: Annotated[
        str | None, Field(description="text for {from}; by default the code")
    ] = None
    target_name: Annotated[str | None, Field(description="text for {to}; by default the code")] = (
        None
    )
    folder: Annotated[
        Path | None,
        Field(description="has dev/ and devtest/; relative to the sweep file; or give `dataset`"),
    ] = None
    dataset: Annotated[
        str | None,
        Field(description="hub id, or a folder relative to the sweep file that begins with ."),
    ] = None
    subset: Annotated[
        str | None, Field(description="name of the configuration; by default SOURCE-TARGET")
    ] = None
    revision: Annotated[str | None, Field(description="commit or tag on the hub; pin it")] = None
    search_share: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="share of `dev` that becomes the search split, by the hash of the input; "
            "by default 0.2",
        ),
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.folder is None) == (self.dataset is None):
            raise ValueError("give either `folder` (local) or `dataset` (for the datasets library)")
        for field in ("subset", "revision"):
            if self.dataset is None and getattr(self, field) is not None:
                raise ValueError(f"`{field}` belongs to `dataset`: give `dataset`, or leave it out")
        if self.source == self.target:
            raise ValueError(f"`source` and `target` are both {self.source}")
        return self


def _read(config: FloresTask, folder: Path, split: str) -> list[Example]:
    first, second = config.source, config.target
    if config.folder is not None:
        place = folder / config.folder / split
        return text_pairs(place / f"{first}.{split}", place / f"{second}.{split}")
    records = Records(
        dataset=config.dataset,
        subset=config.subset or f"{first}-{second}",
        revision=config.revision,
        split=split,
    )
    return [
        make_example(
            text_of(record, f"sentence_{first}", where),
            text_of(record, f"sentence_{second}", where),
        )
        for where, record in read_records(records, folder)
    ]


def load_flores(config: FloresTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid.
    """
    train, search = divided(config, _read(config, folder, "dev"), None)
    sealed = _read(config, folder, "devtest")
    asking = config.naming(config.source_name or config.source, config.target_name or config.target)
    return benchmark_task(asking, METRICS["bleu"], train, search, sealed)
