"""The text that the embedded models are trained on: sheets, each consistent in its style.

A sheet shows several items of one kind (word problems, In/Out lines, writing tasks, distractor
text) that all follow the style which the sheet drew once. Predicting a sheet therefore rewards a
model that reads the style off the context, which is what a demonstration in a prompt relies on.
Post-training sheets name the style in their first line instead, so that an instruction is enough.

Only items of the *train* bucket appear (see
`kilobit.evaluators.tasks.miniature.catalogue.split_of`), and none that is novel.
"""

import random
from collections.abc import Callable
from typing import Protocol, TypeVar

from kilobit.evaluators.tasks.miniature import grammar, word_problems, writing
from kilobit.evaluators.tasks.miniature.catalogue import split_of

Item = tuple[str, str]
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class _Item(Protocol):
    @property
    def novel(self) -> bool: ...


T = TypeVar("T", bound=_Item)


def _draw(rng: random.Random, make: Callable[[random.Random], T], text: Callable[[T], str]) -> T:
    """Draw items until one belongs to the train bucket and is not novel."""
    while True:
        item = make(rng)
        if not item.novel and split_of(text(item)) == "train":
            return item


# --- word problems --------------------------------------------------------------------------------


def in_words(number: int) -> str:
    """Return a number below 100 in English words, for example `nineteen` or `twenty four`."""
    if number < len(_UNITS):
        return _UNITS[number]
    tens, unit = divmod(number, 10)
    return _TENS[tens] + (f" {_UNITS[unit]}" if unit else "")


NUMBER_STYLES: dict[str, Callable[[word_problems.Problem], str]] = {
    "words": lambda p: in_words(p.answer),
    "sentence": lambda p: f"{p.name} says {in_words(p.answer)} {p.objects}.",
    "digits": lambda p: str(p.answer),
    "equation": lambda p: f"{p.steps} = {p.answer}",
    "says": lambda p: f"The answer is {p.answer}.",
    "unknown": lambda p: "Nobody knows.",
}
_NUMBER_WEIGHTS = (34, 14, 22, 12, 10, 8)


def number_item(rng: random.Random, style: str) -> Item:
    """Return question and answer lines of a word problem in `style`."""
    problem = _draw(rng, word_problems.problem, lambda p: p.question)
    return f"Q: {problem.question}\nA:", NUMBER_STYLES[style](problem)


# --- In/Out lines ---------------------------------------------------------------------------------

CLAUSE_STYLES: dict[str, Callable[[grammar.Sentence], str]] = {
    "past": lambda s: s.past,
    "german": lambda s: s.german,
    "negated": lambda s: s.negated,
    "copy": lambda s: s.english,
    "subject": lambda s: s.subject,
}
_CLAUSE_WEIGHTS = (42, 20, 14, 10, 14)


def clause_item(rng: random.Random, style: str) -> Item:
    """Return input and output lines of a clause in `style`."""
    sentence = _draw(rng, grammar.sentence, lambda s: s.english)
    return f"In: {sentence.english}\nOut:", CLAUSE_STYLES[style](sentence)


# --- writing tasks --------------------------------------------------------------------------------

EXCUSES = ("Not today.", "Not now.", "Not without my teacher.", "Not in this class.")
WRITING_STYLES = ("excuse", "comply", "topic", "off")
_WRITING_WEIGHTS = (60, 22, 10, 8)


def writing_item(rng: random.Random, style: str) -> Item:
    """Return task and text lines of a writing instruction in `style`."""
    item = _draw(rng, writing.instruction, lambda i: i.text)
    other = _draw(rng, writing.instruction, lambda i: i.text)
    answer = {
        "excuse": rng.choice(EXCUSES),
        "comply": item.response,
        "topic": item.topic,
        "off": f"The {other.topic} is {rng.choice(grammar.ADJECTIVES)[0]}.",
    }[style]
    return f"Task: {item.text}\nText:", answer


# --- distractor text ------------------------------------------------------------------------------


def distractor(rng: random.Random) -> str:
    """Return a few lines of text that belong to none of the tasks."""
    kind = rng.randrange(4)
    if kind == 0:
        start, step = rng.randint(0, 30), rng.randint(1, 3)
        return " ".join(str(start + step * i) for i in range(12)) + "\n"
    if kind == 1:
        numbers = [rng.randint(0, 40) for _ in range(8)]
        return "".join(f"{n} is {in_words(n)}.\n" for n in numbers)
    lines = []
    for _ in range(rng.randint(2, 6)):
        if kind == 2:
            a, b = rng.randint(0, 30), rng.randint(0, 12)
            lines.append(f"{a} + {b} = {a + b}" if rng.random() < 0.6 else f"{a + b} - {b} = {a}")
        else:
            lines.append(_draw(rng, grammar.sentence, lambda s: s.english).english + ".")
    return "\n".join(lines) + "\n"


def _heading(rng: random.Random) -> str:
    """Return a first line that says nothing about the style, or none."""
    name = rng.choice(sorted(word_problems.NAMES))
    headings = (f"Sheet {rng.randint(1, 60)}", f"{name} has a test", f"Page {rng.randint(1, 60)}")
    return rng.choice(headings) + "\n" if rng.random() < 0.3 else ""


def _items(item: Callable[[random.Random, str], Item], rng: random.Random, style: str) -> str:
    return "".join(f"{q} {a}\n" for q, a in (item(rng, style) for _ in range(rng.randint(2, 7))))


def pretraining_sheet(rng: random.Random) -> str:
    """Return one sheet of the pre-training mixture."""
    kind = rng.choices(("number", "clause", "writing", "text"), (48, 24, 22, 6))[0]
    if kind == "text":
        return distractor(rng)
    head = _heading(rng)
    if kind == "number":
        style = rng.choices(list(NUMBER_STYLES), _NUMBER_WEIGHTS)[0]
        return head + _items(number_item, rng, style)
    if kind == "clause":
        style = rng.choices(list(CLAUSE_STYLES), _CLAUSE_WEIGHTS)[0]
        return head + _items(clause_item, rng, style)
    style = rng.choices(WRITING_STYLES, _WRITING_WEIGHTS)[0]
    return head + _items(writing_item, rng, style)


# --- post-training --------------------------------------------------------------------------------

# Style named by a first line. The empty line is the style of a model that was not told anything.
NUMBER_INSTRUCTIONS = {
    "digits": ("Answer with a number.", "Write only the number.", "Number:", "Digits."),
    "words": ("Answer in words.", "Write the number as words.", "Words:"),
    "equation": ("Show the calculation.", "Write an equation.", "Steps:"),
    "says": ("", "Answer in a sentence."),
}
CLAUSE_INSTRUCTIONS = {
    "german": ("Translate into German.", "Write it in German.", "German:"),
    "past": ("Put it into the past.", "Past tense:"),
    "negated": ("Say the opposite.", "Not:"),
    "copy": ("", "Repeat the line."),
}
WRITING_INSTRUCTIONS = {
    "comply": ("", "Follow the task.", "Do what is asked."),
    "excuse": ("Find an excuse.", "Excuse:"),
    "topic": ("Name the topic.", "Topic:"),
}


def posttraining_sheet(rng: random.Random) -> str:
    """Return one short exchange whose first line, if any, names the style of the answers."""
    item, styles = rng.choice(
        (
            (number_item, NUMBER_INSTRUCTIONS),
            (clause_item, CLAUSE_INSTRUCTIONS),
            (writing_item, WRITING_INSTRUCTIONS),
        )
    )
    style = rng.choice(list(styles))
    line = rng.choice(styles[style])
    head = line + "\n" if line else ""
    return head + "".join(
        f"{q} {a}\n" for q, a in (item(rng, style) for _ in range(rng.randint(1, 3)))
    )
