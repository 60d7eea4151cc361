"""Common parts of translation tasks: pairs of sentences in two languages, and the question.

`{from}` and `{to}` in a template stand for the names of the languages. The score is corpus BLEU.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from evaluators.benchmarks.dividing import BenchmarkTask
from evaluators.metrics import Example
from evaluators.sources import Records, checked_text, read_records, text_lines, text_of
from evaluators.task import make_example
from evaluators.text_task import Answer, LongestAnswer, Stop


class TranslationTask(BenchmarkTask):
    """Settings of a translation task."""

    question: Annotated[
        str,
        Field(description="text before an answer; contains {input}, may contain {from} and {to}"),
    ] = "{from}: {input}\n{to}:"
    answer: Answer = " {target}\n"
    stop: Stop = ("\n",)
    max_new_tokens: LongestAnswer = 256

    def naming(self, source: str, target: str) -> Self:
        """Return these settings with the names of the languages in the question."""
        question = self.question.replace("{from}", source).replace("{to}", target)
        return self.model_copy(update={"question": question})


class Pairs(Records):
    """Sentences in two languages: records with a `translation`, or one text file per language."""

    texts: Annotated[
        dict[str, Path] | None,
        Field(
            description="a text file per language code, one sentence per line, relative to the "
            "sweep file; or give `path` or `dataset`"
        ),
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(value is not None for value in (self.path, self.dataset, self.texts)) != 1:
            raise ValueError("give one of `path`, `dataset` and `texts`")
        self._check_dataset()
        return self


def read_pairs(
    source: Pairs, folder: Path, first: str, second: str, *, to_learn: bool = False
) -> list[Example]:
    """Return sentences of language `first` as inputs and of `second` as targets.

    Args:
        source: the files or the data set.
        folder: the base of relative paths.
        first: code of the language of the inputs.
        second: code of the language of the targets.
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
            place = f"{where}, translation"
            examples.append(make_example(text_of(both, first, place), text_of(both, second, place)))
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
