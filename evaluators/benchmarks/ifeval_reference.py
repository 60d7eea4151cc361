"""The checks of IFEval: calls of the lm-evaluation-harness, not a reimplementation.

Seeding makes their results reproducible. Language detection uses a generator that is seeded here.
Some checks draw an argument because they can't use the one in the record (two records of the
official set ask to count `#` and `!`, and the harness counts a random letter instead): for these
Python's generator is seeded with the record's key and restored afterwards.

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
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from evaluators.sources import DatasetMissingError

if TYPE_CHECKING:
    from types import ModuleType

PUNKT_TYPES = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
LANGUAGE_SEED = 0
_NEEDS = ("lm_eval", "langdetect", "immutabledict", "nltk")
_SAMPLE = "A first line.\n\nA second one, with a comma."


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


def instruction_types() -> tuple[str, ...]:
    """Return the known types of instructions.

    Raises:
        ValueError: if the packages are missing.
    """
    return tuple(sorted(_harness().instructions_registry.INSTRUCTION_DICT))


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
                instruction.build_description(**{k: v for k, v in arguments.items() if v})
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
