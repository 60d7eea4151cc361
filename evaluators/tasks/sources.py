"""Settings of tasks on texts, and the records of a split from files or from a data set.

`read_records` yields every record with its origin for messages: file and line, or data set, split
and number. Code that comes with a data set is never executed. In the context `offline` no library
fetches anything, so data that are missing on this machine stay missing.
"""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kilobit.evaluators.text_files import json_lines, number_text, parsed, read_file
from kilobit.search.settings import Config, reason_of
from kilobit.search.task import Example

Record = tuple[str, Mapping[str, Any]]
_ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
# Types of fields for which each task sets its own default.
TaskName = Annotated[str, Field(min_length=1, description="label of the task in tables")]
Question = Annotated[str, Field(description="text before an answer; contains {input}")]
Answer = Annotated[str, Field(description="an answer in a demonstration; contains {target}")]
Stop = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(description="strings that end a generation"),
]
LongestAnswer = Annotated[int, Field(ge=1, le=100_000, description="longest generation in tokens")]


class TextTask(Config):
    """Label, templates, stop strings and limits of a task on texts."""

    name: TaskName
    question: Question = "{input}\n"
    answer: Answer = "{target}\n"
    stop: Stop = ("\n",)
    max_new_tokens: LongestAnswer = 64
    seed: int = Field(default=0, ge=0)
    """fixes the order of the examples"""
    balance: bool = True
    """where a split has four examples or more for each target that differs, order it so that its
    first examples have each target as often as the whole split"""
    cluster_field: str | None = None
    """key of the passage, document or user: examples with the same value stay in one split, and
    intervals and bounds take them together"""
    near_duplicates: Literal["count", "error"] = "count"
    """inputs in two splits that differ only in spaces, line ends, case or Unicode normalisation:
    count them in the dry run, or refuse the task"""

    @field_validator("question")
    @classmethod
    def _asks(cls, question: str) -> str:
        if question.count("{input}") != 1:
            raise ValueError("must contain {input} once")
        return question

    @field_validator("answer")
    @classmethod
    def _answers(cls, answer: str) -> str:
        if answer.count("{target}") != 1:
            raise ValueError("must contain {target} once")
        return answer


class Records(Config):
    """The records of a split: a local file, or a data set for the `datasets` library."""

    path: Path | None = None
    """a .jsonl file, a .json file with a list, or a folder of .json files with one record each,
    relative to the sweep file; or give `dataset`"""
    dataset: str | None = None
    """hub id, or a folder relative to the sweep file that begins with ."""
    subset: str | None = None
    """name of the configuration"""
    revision: str | None = None
    """commit or tag on the hub; pin it"""
    split: str | None = None
    """of the data set, for example train[:6000]"""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either `path` (local) or `dataset` (for the datasets library)")
        self._check_dataset()
        return self

    def _check_dataset(self) -> None:
        if self.dataset is not None:
            if self.split is None:
                raise ValueError("`dataset` needs a `split`, for example train")
            return
        for field in ("subset", "revision", "split"):
            if getattr(self, field) is not None:
                raise ValueError(f"`{field}` belongs to `dataset`: give `dataset`, or leave it out")


class DatasetMissingError(ValueError):
    """A data set is not on this machine and can't be fetched."""


def _local(path: Path) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        files = sorted(path.rglob("*.json"))
        if not files:
            raise ValueError(f"{path}: the folder holds no .json file")
        for file in files:
            yield str(file), parsed(read_file(file), str(file))
    elif path.suffix == ".json":
        content = parsed(read_file(path), str(path))
        if not isinstance(content, list):
            raise ValueError(
                f"{path}: a list of records is needed; one record per line: name it .jsonl"
            )
        for number, record in enumerate(content, 1):
            yield f"{path}, record {number}", record
    else:
        yield from json_lines(path)


def dataset_rows(
    dataset: str, subset: str | None, revision: str | None, split: str, folder: Path
) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a split of a data set with their origins.

    Raises:
        DatasetMissingError: if the data set is not on this machine and can't be fetched.
        ValueError: if it can't be read.
    """
    import datasets

    datasets.disable_progress_bars()
    # It would log what the error says, with names of classes.
    datasets.logging.set_verbosity(logging.CRITICAL)
    origin = str(folder / dataset) if dataset.startswith(".") else dataset
    try:
        rows = datasets.load_dataset(origin, subset, split=split, revision=revision)
    except (ConnectionError, FileNotFoundError) as error:
        raise DatasetMissingError(
            f"data set {origin} is not on this machine and can't be fetched: {error}"
        ) from error
    except Exception as error:  # the library passes on any exception of its readers
        reason = reason_of(error)
        raise ValueError(f"data set {origin}, split {split!r}: {reason}") from error
    for number, row in enumerate(rows):
        yield f"data set {origin}, split {split!r}, record {number}", row


def read_records(source: Records, folder: Path) -> Iterator[Record]:
    """Yield the records of `source` with their origins; paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: naming the origin, if it can't be read, a record is not an object, or there are
            no records.
    """
    if source.dataset is not None:
        assert source.split is not None
        origin = source.dataset
        rows = dataset_rows(origin, source.subset, source.revision, source.split, folder)
    else:
        assert source.path is not None
        origin = str(folder / source.path)
        rows = _local(folder / source.path)
    empty = True
    for where, record in rows:
        if not isinstance(record, Mapping):
            raise ValueError(f"{where}: a JSON object is needed, found a {type(record).__name__}")
        empty = False
        yield where, record
    if empty:
        raise ValueError(f"{origin}: there are no records")


def text_of(record: Mapping[str, Any], field: str, where: str) -> str:
    """Return the text in `field` of a record.

    Raises:
        ValueError: if it is missing, not a text, or only white space.
    """
    value = record.get(field)
    if not isinstance(value, str):
        raise _unusable(record, field, where, "a text")
    return checked_text(value, f"{where}: field {field!r}")


def text_or_number(record: Mapping[str, Any], field: str, where: str) -> str:
    """Return the text in `field` of a record; a number is spelled as in its file.

    Raises:
        ValueError: if it is missing, neither a text nor a finite number, or only white space.
    """
    value = record.get(field)
    infinite = isinstance(value, float) and not math.isfinite(value)
    if infinite or isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _unusable(record, field, where, "a text or a number")
    text = value if isinstance(value, str) else number_text(value)
    return checked_text(text, f"{where}: field {field!r}")


def in_cluster(
    example: Example,
    record: Mapping[str, Any],
    field: str | None,
    where: str,
    *,
    required: bool = True,
) -> Example:
    """Return the example of a record in its cluster.

    Args:
        example: the example.
        record: the record.
        field: key of its cluster; None without clusters.
        where: origin of the record, for messages.
        required: a record without the field is an error, not an example without a cluster.

    Raises:
        ValueError: as `text_or_number`.
    """
    if field is None or not (required or field in record):
        return example
    cluster = text_or_number(record, field, where)
    return replace(example, extra={**example.extra, "cluster": cluster})


def _unusable(record: Mapping[str, Any], field: str, where: str, needed: str) -> ValueError:
    shown = "nothing" if field not in record else json.dumps(record[field], default=str)[:60]
    return ValueError(
        f"{where}: field {field!r} must be {needed}, found {shown}; the record has the keys "
        f"{sorted(map(str, record))}"
    )


def checked_text(text: str, origin: str, mark: str = "") -> str:
    """Return `text` unchanged after checking it.

    Args:
        text: the text.
        origin: its origin, for messages.
        mark: the mark that it follows, for messages.

    Raises:
        ValueError: naming `origin`, if the text is only white space or holds the character NUL.
    """
    if not text.strip():
        # An empty target would make empty outputs correct; an empty input asks nothing.
        raise ValueError(f"{origin} is empty{f' after {mark!r}' if mark else ''}")
    if "\0" in text:
        raise ValueError(f"{origin} holds the character NUL, which is not valid text")
    return text


@contextmanager
def offline() -> Iterator[None]:
    """Let the hub's libraries read their caches only, in this process and those it starts.

    Setting the environment alone is not enough: they read it when they are imported.
    """
    import datasets
    import huggingface_hub

    targets = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    with patched([(target, name, True) for target, name in targets]):
        try:
            os.environ.update(dict.fromkeys(_ENVIRONMENT, "1"))
            yield
        finally:
            for variable, value in environment.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value


@contextmanager
def patched(targets: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes of modules while the context is open: (module, name, value)."""
    before = [(target, name, getattr(target, name)) for target, name, _ in targets]
    try:
        for target, name, value in targets:
            setattr(target, name, value)
        yield
    finally:
        for target, name, value in before:
            setattr(target, name, value)
