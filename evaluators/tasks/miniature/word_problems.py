"""Word problems with one or two steps on numbers up to 60, in plain English.

`problem(rng)` draws one; nothing here raises. The answer is always a non-negative integer. One
problem in six is of a kind that the embedded models were not trained on (`novel`): demonstrations
do not suffice for it, but an adapter can learn it, so a longer program can score higher.
"""

import random
from dataclasses import dataclass

NAMES = {
    "Anna": "She", "Ben": "He", "Clara": "She", "David": "He", "Emma": "She", "Felix": "He",
    "Greta": "She", "Hugo": "He", "Ida": "She", "Jonas": "He", "Kira": "She", "Leo": "He",
    "Mia": "She", "Noah": "He", "Olga": "She", "Paul": "He", "Rosa": "She", "Simon": "He",
    "Tina": "She", "Viktor": "He",
}  # fmt: skip
OBJECTS = (
    "apples", "books", "coins", "cards", "eggs", "flowers", "keys", "lemons", "marbles", "nuts",
    "pears", "pencils", "plums", "shells", "stamps", "stones", "tickets", "toys",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One word problem: question, solution steps, answer, and the name and objects in it."""

    question: str
    steps: str
    answer: int
    name: str
    objects: str
    novel: bool


def problem(rng: random.Random) -> Problem:
    """Draw one word problem; a third need two steps, a sixth are of a novel kind."""
    name, other = rng.sample(sorted(NAMES), 2)
    pronoun, things = NAMES[name], rng.choice(OBJECTS)
    start, more = rng.randint(4, 20), rng.randint(2, 12)
    less = rng.randint(1, min(9, start - 1))
    boxes, each = rng.randint(2, 6), rng.randint(2, 9)
    has = f"{name} has {start} {things}."
    how = f"How many {things} does {name} have now?"
    total = f"How many {things} are there?"
    if rng.randrange(6) == 0:
        question, steps, answer = _novel(rng, name, other, things)
        return Problem(question, steps, answer, name, things, novel=True)
    kind = rng.randrange(9)
    if kind in (0, 1):
        question = f"{has} {pronoun} gets {more} more. {how}"
        steps, answer = f"{start} + {more}", start + more
    elif kind in (2, 3):
        question = f"{has} {pronoun} loses {less}. {how}"
        steps, answer = f"{start} - {less}", start - less
    elif kind == 4:
        question = f"{name} has {start} {things} and {other} has {more}. {total}"
        steps, answer = f"{start} + {more}", start + more
    elif kind == 5:
        question = f"{name} has {boxes} boxes with {each} {things} each. {total}"
        steps, answer = f"{boxes} * {each}", boxes * each
    elif kind in (6, 7):
        question = f"{has} {pronoun} gets {more} more and gives {less} to {other}. {how}"
        steps, answer = f"{start} + {more} - {less}", start + more - less
    else:
        question = f"{has} {pronoun} gives {less} to {other} and loses 1. {how}"
        steps, answer = f"{start} - {less} - 1", start - less - 1
    return Problem(question, steps, answer, name, things, novel=False)


def _novel(rng: random.Random, name: str, other: str, things: str) -> tuple[str, str, int]:
    """Return question, steps and answer of a problem about doubling, halving or the difference."""
    kind = rng.randrange(3)
    if kind == 0:
        start = rng.randint(3, 20)
        question = f"{name} has {start} {things}. {other} has twice as many. "
        return question + f"How many {things} does {other} have?", f"{start} * 2", start * 2
    if kind == 1:
        half = rng.randint(2, 20)
        question = f"{name} and {other} share {2 * half} {things} equally. "
        return question + f"How many {things} does each get?", f"{2 * half} / 2", half
    small, more = rng.randint(2, 15), rng.randint(2, 9)
    question = f"{name} has {small + more} {things} and {other} has {small}. "
    question += f"How many more {things} does {name} have?"
    return question, f"{small + more} - {small}", more
