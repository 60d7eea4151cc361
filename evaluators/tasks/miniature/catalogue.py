"""The three built-in tasks: `numbers`, `translation` and `instructions`.

All items are generated from a seed in well under a second, not downloaded. The same generators
produced the training data of the embedded models (`examples/tiny/`). The hash of an item's input
decides its split, and the models were trained on the *train* bucket only, so *search* and *sealed*
are unseen by construction.
"""

import hashlib
import random
from collections.abc import Callable

from kilobit.evaluators.metrics.metrics import METRICS
from kilobit.evaluators.tasks.miniature import grammar, word_problems, writing
from kilobit.search.streams import stream
from kilobit.search.task import Example, Task, make_example, make_splits

NUM_EXAMPLES = 512
# A generator that gave nothing new in so many draws has few items left that it did not give yet.
_MOST_FRUITLESS = 100_000
SPLIT_NAMES = ("train", "search", "sealed")
# Of eight hash buckets one is search, one is sealed, and six are for training.
_BUCKETS = ("search", "sealed", "train", "train", "train", "train", "train", "train")


def _number(rng: random.Random) -> Example:
    problem = word_problems.problem(rng)
    return make_example(problem.question, str(problem.answer))


def _clause(rng: random.Random) -> Example:
    sentence = grammar.sentence(rng)
    return make_example(sentence.english, sentence.german)


def _writing(rng: random.Random) -> Example:
    item = writing.instruction(rng)
    extra = {"kind": item.kind, "argument": item.argument, "topic": item.topic}
    return make_example(item.text, item.response, extra)


# Name: generator, question, answer, metric, longest generation in tokens of the embedded tokenizer.
_TASKS: dict[str, tuple[Callable[[random.Random], Example], str, str, str, int]] = {
    "numbers": (_number, "Q: {input}\nA:", " {target}\n", "exact_match", 12),
    "translation": (_clause, "In: {input}\nOut:", " {target}\n", "bleu", 24),
    "instructions": (_writing, "Task: {input}\nText:", " {target}\n", "constraint", 24),
}
MINIATURE_TASKS = tuple(_TASKS)


def load_miniature(name: str, seed: int, train_examples: int = NUM_EXAMPLES) -> Task:
    """Return the built-in task `name`, its items drawn and ordered by `seed`.

    Args:
        name: the task.
        seed: names the stream that draws the items; the number of training examples changes no
            item of the search and the sealed split.
        train_examples: examples of the train split; the other two have 512 each.

    Raises:
        KeyError: if `name` is not in `MINIATURE_TASKS`.
        ValueError: if the task does not have so many different items.
    """
    make, question, answer, metric, max_new_tokens = _TASKS[name]
    rng = stream(seed, "miniature", name)
    wanted = dict.fromkeys(SPLIT_NAMES, NUM_EXAMPLES) | {"train": train_examples}
    found: dict[str, dict[str, Example]] = {split: {} for split in SPLIT_NAMES}
    fruitless = 0
    while any(len(found[split]) < wanted[split] for split in SPLIT_NAMES):
        example = make(rng)
        bucket = split_of(example.input)
        split = found[bucket]
        fruitless += 1
        if len(split) < wanted[bucket] and example.id not in split:
            split[example.id] = example
            fruitless = 0
        elif fruitless == _MOST_FRUITLESS:
            raise ValueError(
                f"task {name}: train_examples {train_examples} are more than it can generate; "
                f"{len(found['train'])} different ones were found"
            )
    train, search, sealed = (list(found[split].values()) for split in SPLIT_NAMES)
    splits = make_splits(name, train, search, sealed, seed)
    return Task(name, question, answer, ("\n",), max_new_tokens, METRICS[metric], splits)


def split_of(text: str) -> str:
    """Return the split (`train`, `search` or `sealed`) of the item with input `text`."""
    return _BUCKETS[hashlib.sha256(text.encode()).digest()[0] % 8]
