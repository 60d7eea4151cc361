"""Short writing instructions, each with a constraint that code can check.

`instruction(rng)` draws one with a response that satisfies it. `satisfies(text, kind, argument,
topic)` checks any response: it must name the topic, be at most twelve words long and meet the
constraint, so neither an empty text nor an echo of the instruction passes. The embedded models were
not trained on the constraints in `NOVEL_KINDS`; one instruction in six has one of them.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from kilobit.evaluators.tasks.miniature.grammar import ADJECTIVES, NOUNS

# Third person and infinitive of verbs without an object.
ACTIONS = (
    ("sleeps", "sleep"), ("runs", "run"), ("sings", "sing"), ("waits", "wait"), ("laughs", "laugh"),
    ("eats", "eat"), ("swims", "swim"), ("plays", "play"),
)  # fmt: skip
ADVERBS = ("here", "outside", "inside", "alone", "again", "slowly")
OPENINGS = ("Today", "Now", "Often", "Later", "Sometimes")
MAX_WORDS = 12


@dataclass(frozen=True)
class Instruction:
    """One instruction, its constraint (`kind`, `argument`), its topic and a passing response."""

    text: str
    kind: str
    argument: str
    topic: str
    response: str

    @property
    def novel(self) -> bool:
        """Return whether the embedded models were not trained on this constraint."""
        return self.kind in NOVEL_KINDS


def _bare(word: str) -> str:
    return word.strip(".!?\"'").lower()


def _capitals(text: str, words: list[str], argument: str) -> bool:
    return text.isupper()


def _count(text: str, words: list[str], argument: str) -> bool:
    return len(words) == int(argument)


def _end(text: str, words: list[str], argument: str) -> bool:
    return words[-1] == argument.lower()


def _start(text: str, words: list[str], argument: str) -> bool:
    return words[0] == argument.lower()


def _use(text: str, words: list[str], argument: str) -> bool:
    return argument.lower() in words


def _question(text: str, words: list[str], argument: str) -> bool:
    return text.endswith("?")


def _quotes(text: str, words: list[str], argument: str) -> bool:
    return text.startswith('"') and text.endswith('"')


def _repeats(words: list[str], times: int) -> bool:
    part = len(words) // times
    return len(words) == part * times and words == words[:part] * times


def _twice(text: str, words: list[str], argument: str) -> bool:
    return _repeats(words, 2)


def _thrice(text: str, words: list[str], argument: str) -> bool:
    return _repeats(words, 3)


def _small(text: str, words: list[str], argument: str) -> bool:
    return text.islower()


def _shout(text: str, words: list[str], argument: str) -> bool:
    return text.endswith("!")


_CHECKS: dict[str, Callable[[str, list[str], str], bool]] = {
    "capitals": _capitals,
    "count": _count,
    "end": _end,
    "start": _start,
    "use": _use,
    "question": _question,
    "quotes": _quotes,
    "twice": _twice,
    "small": _small,
    "shout": _shout,
    "thrice": _thrice,
}
NOVEL_KINDS = ("small", "shout", "thrice")
KNOWN_KINDS = tuple(kind for kind in _CHECKS if kind not in NOVEL_KINDS)


def satisfies(text: str, kind: str, argument: str, topic: str) -> bool:
    """Return whether `text` names `topic`, is short enough, and meets the constraint.

    Raises:
        KeyError: if there is no constraint `kind`.
    """
    check = _CHECKS[kind]
    text = text.strip()
    words = [_bare(word) for word in text.split()]
    if not words or len(words) > MAX_WORDS or topic not in words or words[0] == "write":
        return False
    return check(text, words, argument)


def _plain(rng: random.Random, topic: str, num_words: int) -> str:
    """Return a sentence of three to six words about `topic`."""
    verb = rng.choice(ACTIONS)[0]
    middle = [topic]
    if num_words >= 4:
        middle.insert(0, rng.choice(ADJECTIVES)[0])
    tail = [rng.choice(ADVERBS)] if num_words >= 5 else []
    if num_words >= 6:
        tail.append("today")
    return " ".join(["The", *middle, verb, *tail]) + "."


def instruction(rng: random.Random) -> Instruction:
    """Draw one instruction with a response that satisfies it."""
    topic = rng.choice(NOUNS)[0]
    kind = rng.choice(KNOWN_KINDS if rng.randrange(6) else NOVEL_KINDS)
    third, infinitive = rng.choice(ACTIONS)
    adjective = rng.choice(ADJECTIVES)[0]
    adverb, opening = rng.choice(ADVERBS), rng.choice(OPENINGS)
    size = rng.randint(3, 6)
    short = f"The {topic} {third}."
    argument, ask, response = {
        "capitals": ("", "in capital letters", short.upper()),
        "count": (str(size), f"in {size} words", _plain(rng, topic, size)),
        "end": (adverb, f"and end with the word {adverb}", f"The {topic} {third} {adverb}."),
        "start": (opening, f"and start with the word {opening}", f"{opening} the {topic} {third}."),
        "use": (adjective, f"and use the word {adjective}", f"The {adjective} {topic} {third}."),
        "question": ("", "as a question", f"Does the {topic} {infinitive} {adverb}?"),
        "quotes": ("", "in quotes", f'"{short}"'),
        "twice": ("", "and say it twice", f"{short} {short}"),
        "small": ("", "in small letters", short.lower()),
        "shout": ("", "and end with an exclamation mark", short.replace(".", "!")),
        "thrice": ("", "and say it three times", f"{short} {short} {short}"),
    }[kind]
    line = rng.choice(("a line", "a short line", "one line"))
    about = f"{rng.choice(ADJECTIVES)[0]} {topic}" if rng.random() < 0.5 else topic
    return Instruction(f"Write {line} about the {about} {ask}.", kind, argument, topic, response)
