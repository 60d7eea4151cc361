"""Translation tasks on pairs of sentences: FLORES-200 and WMT 2014.

`{from}` and `{to}` in a template stand for the names of the languages. The score is corpus BLEU.

FLORES-200: translation between any two of two hundred languages (arXiv 2207.04672).

The data have two published splits with one file per language: `dev/eng_Latn.dev` (997 sentences) is
divided into train and search, `devtest/eng_Latn.devtest` (1,012 sentences) is sealed. Records of a
data set hold `sentence_eng_Latn` and so on for both languages. The score is corpus BLEU as in
`wmt14`, with sacrebleu's tokenizer of the target language; set `tokenizer: flores200` for spBLEU,
as published.

WMT 2014, English and German (Bojar et al. 2014): news sentences, scored by corpus BLEU.

A record has `translation: {en, de}`, or there is one text file per language. The score is
sacrebleu's corpus BLEU with default settings over all outputs of a split, divided by 100. Racing
within a rung and plots use a score per sentence: sacrebleu's sentence BLEU with effective order.
Its mean is not the corpus score, and no program is promoted or certified on it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from kilobit.evaluators.metrics.bleu import TokenizerSetting, tokenizer_of
from kilobit.evaluators.metrics.metrics import CorpusBleu
from kilobit.evaluators.tasks.published.splits import (
    BenchmarkTask,
    benchmark_task,
    divided,
    read_examples,
)
from kilobit.evaluators.tasks.sources import (
    Answer,
    LongestAnswer,
    Records,
    Stop,
    TaskName,
    checked_text,
    in_cluster,
    read_records,
    text_of,
)
from kilobit.evaluators.text_files import text_lines
from kilobit.search.task import Example, Task, make_example

_CODE = r"^[a-z]{3}_[A-Z][a-z]{3}$"
_NAMES = {"en": "English", "de": "German"}


class TranslationTask(BenchmarkTask):
    """Settings of a translation task."""

    question: str = "{from}: {input}\n{to}:"
    """text before an answer; contains {input}, may contain {from} and {to}"""
    answer: Answer = " {target}\n"
    stop: Stop = ("\n",)
    max_new_tokens: LongestAnswer = 256
    tokenizer: TokenizerSetting = None

    def naming(self, source: str, target: str) -> Self:
        """Return these settings with the names of the languages in the question."""
        question = self.question.replace("{from}", source).replace("{to}", target)
        return self.model_copy(update={"question": question})


class Pairs(Records):
    """Sentences in two languages: records with a `translation`, or one text file per language."""

    texts: dict[str, Path] | None = None
    """a text file per language code, one sentence per line, relative to the sweep file; or give
    `path` or `dataset`"""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(value is not None for value in (self.path, self.dataset, self.texts)) != 1:
            raise ValueError("give one of `path`, `dataset` and `texts`")
        self._check_dataset()
        return self


def read_pairs(
    source: Pairs,
    folder: Path,
    first: str,
    second: str,
    cluster_field: str | None = None,
    *,
    to_learn: bool = False,
) -> list[Example]:
    """Return sentences of language `first` as inputs and of `second` as targets.

    Args:
        source: the files or the data set.
        folder: the base of relative paths.
        first: code of the language of the inputs.
        second: code of the language of the targets.
        cluster_field: key of a record's cluster.
        to_learn: leave out pairs with an empty side, which occur in published training data.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid.
    """
    if source.texts is not None:
        missing = [language for language in (first, second) if language not in source.texts]
        if missing:
            raise ValueError(f"texts: there is no file for {missing[0]!r}")
        files = folder / source.texts[first], folder / source.texts[second]
        return text_pairs(*files, to_learn=to_learn)
    examples = []
    for where, record in read_records(source, folder):
        both = _translation(record, where)
        if not (to_learn and any(_is_blank(both.get(name)) for name in (first, second))):
            origin = f"{where}, translation"
            pair = make_example(text_of(both, first, origin), text_of(both, second, origin))
            examples.append(in_cluster(pair, record, cluster_field, where))
    return examples


def text_pairs(inputs: Path, targets: Path, *, to_learn: bool = False) -> list[Example]:
    """Return the lines of two files as inputs and targets.

    Raises:
        ValueError: naming file and line, if a file can't be read, a line is empty (unless
            `to_learn`), or the files differ in their number of lines.
    """
    asked, answers = text_lines(inputs), text_lines(targets)
    if len(asked) != len(answers):
        raise ValueError(
            f"{inputs} has {len(asked)} lines and {targets} has {len(answers)}: each "
            "line must be the translation of the same line of the other file"
        )
    return [
        make_example(
            checked_text(text, f"{inputs}, line {number}: the line"),
            checked_text(target, f"{targets}, line {number}: the line"),
        )
        for number, (text, target) in enumerate(zip(asked, answers, strict=True), 1)
        if not to_learn or (text.strip() and target.strip())
    ]


def _translation(record: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    both = record.get("translation")
    if not isinstance(both, Mapping):
        raise ValueError(
            f"{where}: field 'translation' must be an object with a text for each language, found "
            f"{type(both).__name__ if 'translation' in record else 'nothing'}"
        )
    return both


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


class FloresTask(TranslationTask):
    """Settings of FLORES-200, from the hub or from its folder."""

    kind: Literal["flores"]
    """sentences in 200 languages"""
    name: TaskName = "flores"
    source: str = Field(pattern=_CODE)
    """code of the source language, e.g. eng_Latn"""
    target: str = Field(pattern=_CODE)
    """code of the target language, e.g. deu_Latn"""
    source_name: str | None = None
    """text for {from}; by default the code"""
    target_name: str | None = None
    """text for {to}; by default the code"""
    folder: Path | None = None
    """has dev/ and devtest/; relative to the sweep file; or give `dataset`"""
    dataset: str | None = None
    """hub id, or a folder relative to the sweep file that begins with ."""
    subset: str | None = None
    """name of the configuration; by default SOURCE-TARGET"""
    revision: str | None = None
    """commit or tag on the hub; pin it"""
    search_share: float | None = Field(default=None, gt=0, lt=1)
    """share of `dev` that becomes the search split, by the hash of the input or cluster;
    by default 0.2"""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.folder is None) == (self.dataset is None):
            raise ValueError("give either `folder` (local) or `dataset` (for the datasets library)")
        for field in ("subset", "revision"):
            if self.dataset is None and getattr(self, field) is not None:
                raise ValueError(f"`{field}` belongs to `dataset`: give `dataset`, or leave it out")
        _check_clusters(self.cluster_field, "folder", self.folder)
        if self.source == self.target:
            raise ValueError(f"`source` and `target` are both {self.source}")
        return self


def _check_clusters(cluster_field: str | None, source: str, files: object) -> None:
    if cluster_field is not None and files is not None:
        raise ValueError(
            f"`cluster_field: {cluster_field}` names a field of records, and the text files of "
            f"`{source}` have none: give records, or leave it out"
        )


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

    def pair(record: Mapping[str, Any], where: str) -> Example:
        source, target = (text_of(record, f"sentence_{code}", where) for code in (first, second))
        return make_example(source, target)

    return read_examples(config, records, folder, pair)


def load_flores(config: FloresTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid, or if there is no tokenizer.
    """
    train, search = divided(config, _read(config, folder, "dev"), None)
    sealed = _read(config, folder, "devtest")
    asking = config.naming(config.source_name or config.source, config.target_name or config.target)
    metric = CorpusBleu(config.tokenizer or tokenizer_of(config.target))
    return benchmark_task(asking, metric, train, search, sealed)


class Wmt14Task(TranslationTask):
    """Settings of WMT14 English-German, from the hub or from files."""

    kind: Literal["wmt14"]
    """news sentences, English and German"""
    name: TaskName = "wmt14"
    direction: Literal["en-de", "de-en"]
    """direction of translation"""
    train: Pairs
    """pairs for training and for the search split"""
    search: Pairs | None = None
    """pairs of the search split; null: a share of `train`"""
    sealed: Pairs
    """the published test set"""

    @model_validator(mode="after")
    def _records_have_clusters(self) -> Self:
        for pairs in (self.train, self.search, self.sealed):
            _check_clusters(self.cluster_field, "texts", pairs and pairs.texts)
        return self


def load_wmt14(config: Wmt14Task, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming file and line, if a record is invalid.
    """
    first, second = config.direction.split("-")

    def read(source: Pairs, *, to_learn: bool = False) -> list[Example]:
        field = config.cluster_field
        return read_pairs(source, folder, first, second, field, to_learn=to_learn)

    given = None if config.search is None else read(config.search)
    train, search = divided(config, read(config.train, to_learn=True), given)
    sealed = read(config.sealed)
    asking = config.naming(_NAMES[first], _NAMES[second])
    metric = CorpusBleu(config.tokenizer or tokenizer_of(second))
    return benchmark_task(asking, metric, train, search, sealed)
