"""IFEval: prompts with checkable instructions, scored by the checks of lm-evaluation-harness.

The prompts are those of Zhou et al. 2023 (arXiv 2311.07911). A record has `key`, `prompt`,
`instruction_id_list` and `kwargs`. A response scores 1 if it follows all instructions of its prompt
unmodified (strict, at prompt level), else 0. Further columns hold the number of instructions and
how many are followed, strictly and after the reference's loosening.

The official set has no responses, so it serves for scoring only. Demonstrations and training use
records of the same format with a `response`, or conversations
(`kilobit.evaluators.tasks.published.conversations`).

The checks of IFEval: calls of the lm-evaluation-harness, not a reimplementation.

Seeding makes their results reproducible. Language detection uses a generator that is seeded here.
An argument that the harness would exchange for a random one is refused
(`kilobit.evaluators.tasks.published.ifeval_arguments`), but for two records of the official set,
which ask to count `#` and `!`: for these Python's generator is seeded with the record's key and
restored afterwards.

Sentences and capital words are counted with NLTK's Punkt data, which are not part of the package.
If they are needed and not on this machine, one error says so; nothing is fetched, and no other
splitter replaces them.
"""

import contextlib
import io
import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from kilobit.evaluators.metrics.metrics import MeanMetric
from kilobit.evaluators.tasks.published.conversations import conversation_example
from kilobit.evaluators.tasks.published.ifeval_arguments import check_arguments
from kilobit.evaluators.tasks.published.splits import (
    BenchmarkTask,
    benchmark_task,
    divided,
    read_examples,
)
from kilobit.evaluators.tasks.sources import (
    Answer,
    DatasetMissingError,
    LongestAnswer,
    Question,
    Records,
    Stop,
    TaskName,
    text_of,
)
from kilobit.search.task import Example, Task, make_example

if TYPE_CHECKING:
    from types import ModuleType

PUNKT_TYPES = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
LANGUAGE_SEED = 0
_NEEDS = ("lm_eval", "langdetect", "immutabledict", "nltk")
_SAMPLE = "A first line.\n\nA second one, with a comma."
_KEPT = ("instruction_id_list", "kwargs")


@dataclass(frozen=True)
class Prompt:
    """A prompt and the instructions that its response has to follow.

    Attributes:
        key: number of the record.
        text: the prompt.
        instructions: types of its instructions, such as `punctuation:no_comma`.
        arguments: the arguments of each instruction, without null values.
    """

    key: int
    text: str
    instructions: tuple[str, ...]
    arguments: tuple[Mapping[str, Any], ...]

    def as_extra(self) -> dict[str, str]:
        """Return the fields except the text, encoded for `Example.extra`."""
        return {
            "key": str(self.key),
            "instruction_id_list": json.dumps(self.instructions),
            "kwargs": json.dumps([dict(sorted(one.items())) for one in self.arguments]),
        }

    @classmethod
    def of(cls, text: str, extra: Mapping[str, str]) -> "Prompt":
        """Return the prompt of an example."""
        types, arguments = json.loads(extra["instruction_id_list"]), json.loads(extra["kwargs"])
        return cls(int(extra["key"]), text, tuple(types), tuple(arguments))


@dataclass(frozen=True)
class Followed:
    """Flags of the instructions that a response follows, in the record's order."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


@cache
def _harness() -> "ModuleType":
    """Return the harness' module of IFEval, imported without network access.

    Raises:
        ValueError: if a package is missing.
    """
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the task ifeval needs the packages of kilobit[bench] ({', '.join(missing)} missing): "
            "pip install 'kilobit[bench]'"
        )
    from unittest.mock import patch

    import langdetect
    import nltk

    # Importing it would download Punkt if missing, and print a message.
    with (
        patch.object(nltk, "download", lambda *_: False),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        from lm_eval.tasks.ifeval import utils
    langdetect.DetectorFactory.seed = LANGUAGE_SEED
    # It logs an error for every output of unknown language; silence it.
    logging.getLogger("lm_eval.tasks.ifeval.instructions").setLevel(logging.CRITICAL)
    found: ModuleType = utils
    return found


@contextlib.contextmanager
def _drawing_from(key: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(key)
    try:
        yield
    finally:
        random.setstate(state)


def has_punkt() -> bool:
    """Return whether NLTK's Punkt data for English are on this machine."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def check_prompt(prompt: Prompt) -> None:
    """Check that the harness can use the instructions of a prompt.

    Raises:
        ValueError: if it can't, or the packages are missing.
    """
    known = _harness().instructions_registry.INSTRUCTION_DICT
    for name, arguments in zip(prompt.instructions, prompt.arguments, strict=True):
        if name not in known:
            raise ValueError(f"there is no instruction type {name!r}; types are {sorted(known)}")
        with _drawing_from(prompt.key):
            instruction = known[name](name)
            try:
                check_arguments(
                    prompt.key, instruction.get_instruction_args_keys() or (), arguments
                )
                instruction.build_description(**arguments)
                if name not in PUNKT_TYPES:
                    instruction.check_following(_SAMPLE)
            except Exception as error:  # its checks raise many types
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ValueError(f"kwargs {dict(arguments)} don't fit {name}: {reason}") from error


def check_punkt(prompts: Sequence[Prompt]) -> None:
    """Check that Punkt's data are on this machine if a prompt needs them.

    Raises:
        DatasetMissingError: if they are not.
    """
    needing = [prompt for prompt in prompts if set(prompt.instructions) & set(PUNKT_TYPES)]
    if needing and not has_punkt():
        raise DatasetMissingError(
            f"{len(needing)} of {len(prompts)} prompts have instructions of the types "
            f"{' and '.join(PUNKT_TYPES)}, which are checked with NLTK's punkt_tab data, and these "
            "are not on this machine: run `python -m nltk.downloader punkt_tab` where there is a "
            "network, and copy its nltk_data folder to the home folder or set NLTK_DATA to it"
        )


def check_response(prompt: Prompt, response: str) -> Followed:
    """Return the instructions that `response` follows according to the harness.

    Raises:
        ValueError: if the packages are missing.
    """
    harness = _harness()
    record = harness.InputExample(
        prompt.key, list(prompt.instructions), prompt.text, [dict(a) for a in prompt.arguments]
    )
    with _drawing_from(prompt.key):
        strict = harness.test_instruction_following_strict(record, response)
    with _drawing_from(prompt.key):
        loose = harness.test_instruction_following_loose(record, response)
    return Followed(tuple(strict.follow_instruction_list), tuple(loose.follow_instruction_list))


class IfevalTask(BenchmarkTask):
    """Settings of IFEval, from the hub or from files."""

    kind: Literal["ifeval"]
    """instructions that can be checked"""
    name: TaskName = "ifeval"
    train: Records | None = None
    """records with a `response` for training"""
    conversations: Records | None = None
    """conversations for training, in LIMA's format"""
    search: Records | None = None
    """records of the search split; null: a share of `train`"""
    sealed: Records
    """the official set"""
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

    def read(source: Records, *, shown: bool = False) -> list[Example]:
        return read_examples(config, source, folder, lambda *one: _example(*one, shown=shown))

    sealed = read(config.sealed)
    given = None if config.search is None else read(config.search)
    learned = [] if config.train is None else read(config.train, shown=True)
    train, search = divided(config, learned, given)
    check_punkt([Prompt.of(example.input, example.extra) for example in (*search, *sealed)])
    if config.conversations is not None:
        more = config.conversations
        train += read_examples(config, more, folder, conversation_example, required=False)
    return benchmark_task(config, Ifeval(), train, search, sealed)


def _example(record: Mapping[str, Any], where: str, *, shown: bool) -> Example:
    """Return the example of a record, which needs a response if `shown`."""
    prompt = ifeval_prompt(record, where)
    target = text_of(record, "response", where) if shown else ""
    return make_example(prompt.text, target, prompt.as_extra())
