"""Operators on the text of a prompt and on the steps applied to the output.

An operator takes a candidate and returns a changed one, or None where it has nothing to change. A
change stays within the limits of the candidate's family: instructions only where it lists one, of
at most twice as many words as its longest (or eight, if that is more); numbers of demonstrations
between its smallest and its largest; steps, limits and chat as it lists them, and no more steps
than a draw from it may have.

The words of new instructions: from the families' instructions and the train split.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilobit.search.candidate import Candidate
from kilobit.search.space import PromptFamily
from kilobit.search.task import Task

# Of a large train split the first examples and the most frequent words are enough.
_MOST_EXAMPLES, _MOST_WORDS = 2000, 2000
_LONGEST_RUN = 3
_LEAST_WORDS = 8


@dataclass(frozen=True)
class Corpus:
    """Instructions as lists of words, and single words.

    Attributes:
        instructions: those that the families list, without the empty one.
        words: of the train split's inputs and targets, the most frequent first.
    """

    instructions: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]

    def piece(self, rng: random.Random) -> tuple[str, ...]:
        """Return a run of words from an instruction, or a word of the train split."""
        if self.words and (not self.instructions or rng.random() < 0.5):
            return (rng.choice(self.words),)
        if not self.instructions:
            return ()
        words = rng.choice(self.instructions)
        length = rng.randint(1, min(_LONGEST_RUN, len(words)))
        at = rng.randrange(len(words) - length + 1)
        return words[at : at + length]


def make_corpus(families: Iterable[PromptFamily], task: Task) -> Corpus:
    """Return the corpus of a sweep."""
    listed = dict.fromkeys(text for family in families for text in family.instructions if text)
    counts: Counter[str] = Counter()
    for example in task.splits.train[:_MOST_EXAMPLES]:
        counts.update(example.input.split())
        counts.update(example.target.split())
    # Words of equal frequency are sorted by name, so that the order of insertion does not matter.
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    return Corpus(
        instructions=tuple(tuple(split(text)) for text in listed if text.strip()),
        words=tuple(frequent[:_MOST_WORDS]),
    )


def split(instruction: str) -> list[str]:
    """Return the words of an instruction, line ends inside them; `join` reverses it."""
    return instruction.split(" ") if instruction else []


def join(words: Iterable[str]) -> str:
    """Return words as an instruction."""
    return " ".join(words)


@dataclass(frozen=True)
class Surroundings:
    """The inputs of an operator besides the candidate.

    Attributes:
        families: the families that are searched, by name.
        task: its train split supplies the demonstrations.
        corpus: words and phrases for instructions.
        mate: another candidate to take a part from, None if there is none.
        trained: the candidate has ended, so its adapter will not be trained further.
    """

    families: Mapping[str, PromptFamily]
    task: Task
    corpus: Corpus
    mate: Candidate | None = None
    trained: bool = False


Operator = Callable[[Candidate, Surroundings, random.Random], Candidate | None]


def with_prompt(candidate: Candidate, **changes: Any) -> Candidate:
    """Return the candidate with another instruction or other demonstrations."""
    return candidate.model_copy(update={"prompt": candidate.prompt.model_copy(update=changes)})


def most_words(family: PromptFamily) -> int:
    """Return the largest number of words of an instruction, 0 if the family lists none."""
    longest = max(len(split(text)) for text in family.instructions)
    return max(2 * longest, _LEAST_WORDS) if longest else 0


def all_steps(family: PromptFamily) -> list[str]:
    """Return every step that the family lists."""
    listed = [step for steps in family.postprocess for step in steps]
    return list(dict.fromkeys([*listed, *family.postprocess_combine]))


def most_steps(family: PromptFamily) -> int:
    """Return the largest number of steps that a draw from the family may have."""
    combined = min(family.postprocess_most, len(family.postprocess_combine))
    return max(map(len, family.postprocess)) + combined


def _run(words: Sequence[str], rng: random.Random, longest: int) -> tuple[int, int]:
    length = rng.randint(1, min(longest, len(words)))
    at = rng.randrange(len(words) - length + 1)
    return at, at + length


def _reworded(candidate: Candidate, around: Surroundings, words: list[str]) -> Candidate | None:
    most = most_words(around.families[candidate.family])
    if len(words) > most or join(words) == candidate.prompt.instruction:
        return None
    return with_prompt(candidate, instruction=join(words))


def delete_words(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Leave a run of one to three words out of the instruction."""
    words = split(candidate.prompt.instruction)
    if not words:
        return None
    first, end = _run(words, rng, _LONGEST_RUN)
    return _reworded(candidate, around, words[:first] + words[end:])


def swap_words(candidate: Candidate, around: Surroundings, rng: random.Random) -> Candidate | None:
    """Swap two words of the instruction."""
    words = split(candidate.prompt.instruction)
    if len(words) < 2:
        return None
    first, second = rng.sample(range(len(words)), 2)
    words[first], words[second] = words[second], words[first]
    return _reworded(candidate, around, words)


def replace_words(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Replace one or two words of the instruction by a piece of the corpus."""
    words = split(candidate.prompt.instruction)
    if not words:
        return None
    first, end = _run(words, rng, 2)
    return _reworded(candidate, around, [*words[:first], *around.corpus.piece(rng), *words[end:]])


def insert_words(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Insert a piece of the corpus at a random position of the instruction."""
    words = split(candidate.prompt.instruction)
    at = rng.randint(0, len(words))
    return _reworded(candidate, around, [*words[:at], *around.corpus.piece(rng), *words[at:]])


def _another_example(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> tuple[str, str] | None:
    """Return a train example that the candidate does not show, None if there is none."""
    train, shown = around.task.splits.train, candidate.prompt.demonstrations
    # Draw one more than are shown: if all of the drawn are shown, the split has no other.
    for example in rng.sample(train, min(len(train), len(shown) + 1)):
        if (example.input, example.target) not in shown:
            return example.input, example.target
    return None


def add_demonstration(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Add a demonstration at a random position."""
    shown = candidate.prompt.demonstrations
    example = _another_example(candidate, around, rng)
    if len(shown) >= max(around.families[candidate.family].demonstrations) or example is None:
        return None
    at = rng.randint(0, len(shown))
    return with_prompt(candidate, demonstrations=(*shown[:at], example, *shown[at:]))


def drop_demonstration(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Remove a random demonstration."""
    shown = candidate.prompt.demonstrations
    if len(shown) <= min(around.families[candidate.family].demonstrations):
        return None
    at = rng.randrange(len(shown))
    return with_prompt(candidate, demonstrations=shown[:at] + shown[at + 1 :])


def swap_demonstration(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Replace a random demonstration by another example."""
    shown = candidate.prompt.demonstrations
    example = _another_example(candidate, around, rng)
    if not shown or example is None:
        return None
    at = rng.randrange(len(shown))
    return with_prompt(candidate, demonstrations=(*shown[:at], example, *shown[at + 1 :]))


def change_steps(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Add, drop or replace one step on the output."""
    family, steps = around.families[candidate.family], candidate.postprocess
    others = [step for step in all_steps(family) if step not in steps]
    options: list[tuple[str, ...]] = [steps[:at] + steps[at + 1 :] for at in range(len(steps))]
    for other in others:
        options += [(*steps[:at], other, *steps[at + 1 :]) for at in range(len(steps))]
        if len(steps) < most_steps(family):
            options += [(*steps[:at], other, *steps[at:]) for at in range(len(steps) + 1)]
    return candidate.model_copy(update={"postprocess": rng.choice(options)}) if options else None


def flip_chat(candidate: Candidate, around: Surroundings, rng: random.Random) -> Candidate | None:
    """Put the text into the chat template, or take it out."""
    family, chat = around.families[candidate.family], not candidate.chat
    return family.in_chat(candidate, chat) if chat in family.chats else None


def change_limit(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Choose another of the listed limits of generated tokens."""
    listed = around.families[candidate.family].max_new_tokens
    others = [limit for limit in dict.fromkeys(listed) if limit != candidate.max_new_tokens]
    return candidate.model_copy(update={"max_new_tokens": rng.choice(others)}) if others else None


PROMPT_OPERATORS: dict[str, Operator] = {
    "delete words": delete_words,
    "swap words": swap_words,
    "replace words": replace_words,
    "insert words": insert_words,
    "add demonstration": add_demonstration,
    "drop demonstration": drop_demonstration,
    "swap demonstration": swap_demonstration,
    "change steps": change_steps,
    "flip chat": flip_chat,
    "change limit": change_limit,
}
