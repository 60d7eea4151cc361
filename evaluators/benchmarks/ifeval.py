"""IFEval: prompts with instructions that a program can check (Zhou et al. 2023, arXiv 2311.07911).

A record has `key`, `prompt`, `instruction_id_list` and `kwargs`. A response scores 1 if it follows
all instructions of its prompt unmodified (strict, at prompt level), else 0. Further columns hold
the number of instructions and how many are followed, strictly and after the reference's loosening.

The official set has no responses, so it serves for scoring only. Demonstrations and training use
records of the same format with a `response`, or conversations
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
    """Settings of IFEval, from the hub or from files."""

    kind: Annotated[Literal["ifeval"], Field(description="instructions that can be checked")]
    name: TaskName = "ifeval"
    train: Annotated[
        Records | None, Field(description="records with a `response` for training")
    ] = None
    conversations: Annotated[
        Records | None, Field(description="conversations for training, in LIMA's format")
    ] = None
    search: Annotated[
        Records | None, Field(description="records of the search split; null: a share of `train`")
    ] = None
    sealed: Annotated[Records, Field(description="the official set")]
    question: Question = "{input}\n\n"
    answer: Answer = "{target}\n\n"
    stop: Stop = ()
    max_new_tokens: LongestAnswer = 1280

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if self.train is None and self.conversations is None:
            raise ValueError("give `train` or `conversations`: there are no training data")
        if self.search is None and self.train is None:
            raise ValueError("give `search`: without `train` no share can be taken from it")
        return self


class Ifeval(MeanMetric):
    """Score 1 if a response follows all instructions of its prompt unmodified, else 0."""

    name = "ifeval"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(all(_followed(output, example).strict))

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return the number of instructions and how many are followed, strict and loose."""
        found = _followed(output, example)
        return {
            "instructions": len(found.strict),
            "strict": sum(found.strict),
            "loose": sum(found.loose),
        }


def _followed(output: str, example: Example) -> Followed:
    extra = example.extra
    return _checked(output, example.input, extra["key"], *(extra[name] for name in _KEPT))


# Cached: language detection takes milliseconds, and score and columns check the same output.
@lru_cache(maxsize=4096)
def _checked(output: str, text: str, key: str, instructions: str, arguments: str) -> Followed:
    prompt = Prompt.of(
        text, {"key": key, **dict(zip(_KEPT, (instructions, arguments), strict=True))}
    )
    try:
        return check_response(prompt, output)
    except RecursionError:
        # The JSON check fails on brackets nested thousands deep: no instruction is followed.
        nothing = (False,) * len(prompt.instructions)
        return Followed(nothing, nothing)


def four_scores(outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return the four published scores: strict and loose, by prompts and by instructions.

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
        ValueError: naming the record, if a field is missing or the harness can't use it.
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
    # In the hub's version every object has every argument; those that do not apply are null.
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
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set, or data that its checks need, are not on this machine.
        ValueError: naming file and line, if a record is invalid, or the missing packages.
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
    """Return the examples of `source`; with `shown`, every record needs a response."""
    examples = []
    for where, record in read_records(source, folder):
        prompt = ifeval_prompt(record, where)
        target = text_of(record, "response", where) if shown else ""
        examples.append(make_example(prompt.text, target, prompt.as_extra()))
    return examples
