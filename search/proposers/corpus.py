"""The words of new instructions: from the families' instructions and the train split."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from evaluators.task import Task
from search.space import PromptFamily

# Of a large train split the first examples and the most frequent words are enough.
_MOST_EXAMPLES, _MOST_WORDS = 2000, 2000
_LONGEST_RUN = 3


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

    def single_words(self) -> tuple[str, ...]:
        """Return every word, those of the instructions first."""
        return tuple(dict.fromkeys([w for i in self.instructions for w in i] + [*self.words]))


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
