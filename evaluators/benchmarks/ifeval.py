"""IFEval: prompts with instructions that a program can check (Zhou et al. 2023, arXiv 2311.07911).

A record has `key`, `prompt`, `instruction_id_list` and `kwargs`. The score of a response is 1 if it
follows all its instructions as it stands (strict, at prompt level), else 0; whether it does after
the reference's loosening, and how many single instructions it follows, are kept beside it.

The official set has no responses, so it can only be scored on. What demonstrations show and
adapters learn are records of the same format with a `response`, or conversations
(`evaluators.benchmarks.conversations`).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evaluators.benchmarks.conversations import read_conversations
from evaluators.benchmarks.dividing import BenchmarkTask, benchmark_task, divided
from evaluators.benchmarks.ifeval_reference import (
    Followed,
    Prompt,
    check_prompt,
    check_punkt,
    check_response,
)
from evaluators.metrics import Example, MeanMetric
from evaluators.sources import Records, read_records, text_of
from evaluators.task import Task, make_example
from evaluators.text_task import Answer, LongestAnswer, Question, Stop, TaskName

_KEPT = ("instruction_id_list", "kwargs")


class IfevalTask(BenchmarkTask):
    """IFEval, from the hub or from its files."""

    kind: Annotated[Literal["ifeval"], Field(description="instructions that can be checked")]
    name: TaskName = "ifeval"
    train: Annotated[
        Records | None, Field(description="records with a `response` to learn from")
    ] = None
    conversations: Annotated[
        Records | None, Field(description="conversations to learn from, as LIMA has them")
    ] = None
    search: Annotated[
        Records | None, Field(description="records to compare on; null: a share of `train`")
    ] = None
    sealed: Annotated[Records, Field(description="the official set")]
    question: Question = "{input}\n\n"
    answer: Answer = "{target}\n\n"
    stop: Stop = ()
    max_new_tokens: LongestAnswer = 1280

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if self.train is None and self.conversations is None:
            raise ValueError("give `train` or `conversations`: there is nothing to learn from")
        if self.search is None and self.train is None:
            raise ValueError("give `search`: without `train` there is nothing to take a share of")
        return self


class Ifeval(MeanMetric):
    """1 if a response follows all instructions of its prompt as it stands, else 0."""

    name = "ifeval"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(all(_followed(output, example).strict))

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return how many instructions there are and are followed; both levels follow from it."""
        found = _followed(output, example)
        return {
            "instructions": len(found.strict),
            "strict": sum(found.strict),
            "loose": sum(found.loose),
        }


def _followed(output: str, example: Example) -> Followed:
    extra = example.extra
    return _checked(output, example.input, extra["key"], *(extra[name] for name in _KEPT))


# Language detection takes milliseconds, and an output is asked about for its score and its columns.
@lru_cache(maxsize=4096)
def _checked(output: str, text: str, key: str, instructions: str, arguments: str) -> Followed:
    prompt = Prompt.of(
        text, {"key": key, **dict(zip(_KEPT, (instructions, arguments), strict=True))}
    )
    try:
        return check_response(prompt, output)
    except RecursionError:
        # Brackets nested thousands deep are no JSON that the check of it could read.
        nothing = (False,) * len(prompt.instructions)
        return Followed(nothing, nothing)


def four_scores(outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return the four scores that are published: strict and loose, of prompts and instructions.

    Raises:
        ValueError: if there are no outputs.
    """
    if not outputs:
        raise ValueError("no outputs: a score needs at least one")
    found = [_followed(out, example) for out, example in zip(outputs, examples, strict=True)]
    scores = {}
    for level in ("strict", "loose"):
        each: list[tuple[bool, ...]] = [getattr(one, level) for one in found]
        scores[f"prompt_level_{level}_acc"] = sum(map(all, each)) / len(each)
        scores[f"inst_level_{level}_acc"] = sum(map(sum, each)) / sum(map(len, each))
    return scores


def ifeval_prompt(record: Mapping[str, Any], where: str) -> Prompt:
    """Return the prompt in a record.

    Raises:
        ValueError: naming the place, if a field is missing or the harness can't use it.
    """
    text = text_of(record, "prompt", where)
    key: Any = record.get("key")
    types: Any = record.get("instruction_id_list")
    arguments: Any = record.get("kwargs")
    if isinstance(key, bool) or not isinstance(key, int):
        raise ValueError(f"{where}: field 'key' must be a whole number, found {key!r:.60}")
    if not _list_of(types, str):
        raise ValueError(f"{where}: field 'instruction_id_list' must be a list of texts, not empty")
    if not _list_of(arguments, Mapping) or len(arguments) != len(types):
        raise ValueError(f"{where}: field 'kwargs' must hold an object for each instruction")
    # The hub's form has every argument in every object, null where it has no meaning.
    given = tuple({k: v for k, v in one.items() if v is not None} for one in arguments)
    prompt = Prompt(key, text, tuple(types), given)
    try:
        check_prompt(prompt)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return prompt


def _list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, kind) for one in value)


def load_ifeval(config: IfevalTask, folder: Path) -> Task:
    """Return the task, paths relative to `folder`.

    Raises:
        DatasetMissingError: if a data set, or data that its checks need, are not on this machine.
        ValueError: naming file and line of what can't be used, or packages that are missing.
    """
    sealed = _read(config.sealed, folder)
    given = None if config.search is None else _read(config.search, folder)
    learned = [] if config.train is None else _read(config.train, folder, shown=True)
    train, search = divided(config, learned, given)
    check_punkt([Prompt.of(example.input, example.extra) for example in (*search, *sealed)])
    if config.conversations is not None:
        train += read_conversations(config.conversations, folder)
    return benchmark_task(config, Ifeval(), train, search, sealed)


def _read(source: Records, folder: Path, *, shown: bool = False) -> list[Example]:
    """Return the examples of `source`; those that are shown need a response."""
    examples = []
    for where, record in read_records(source, folder):
        prompt = ifeval_prompt(record, where)
        target = text_of(record, "response", where) if shown else ""
        examples.append(make_example(prompt.text, target, prompt.as_extra()))
    return examples
