"""A small English-German grammar: articles, cases, adjective endings, verb-second order, modals.

`sentence(rng)` draws one pair with a few English variants of the same clause (past tense, negation,
the bare subject) for the pre-training data. Nothing here raises. Some words are *novel*: the
embedded models were not trained on them, so a program has to contain their translations.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

# English noun, German noun, gender (m, f, n).
NOUNS = (
    ("dog", "Hund", "m"), ("cat", "Katze", "f"), ("horse", "Pferd", "n"), ("child", "Kind", "n"),
    ("man", "Mann", "m"), ("woman", "Frau", "f"), ("teacher", "Lehrer", "m"), ("girl", "Mädchen",
    "n"), ("king", "König", "m"), ("queen", "Königin", "f"), ("bird", "Vogel", "m"), ("mouse",
    "Maus", "f"), ("sheep", "Schaf", "n"), ("friend", "Freund", "m"), ("doctor", "Arzt", "m"),
    ("duck", "Ente", "f"),
)  # fmt: skip
NOVEL_NOUNS = (
    ("fox", "Fuchs", "m"), ("goat", "Ziege", "f"), ("pig", "Schwein", "n"), ("farmer", "Bauer",
    "m"), ("aunt", "Tante", "f"), ("calf", "Kalb", "n"), ("bear", "Bär", "m"), ("snake",
    "Schlange", "f"),
)  # fmt: skip
ADJECTIVES = (
    ("big", "groß"), ("small", "klein"), ("old", "alt"), ("young", "jung"), ("red", "rot"),
    ("good", "gut"), ("tired", "müd"), ("quiet", "still"), ("wild", "wild"), ("poor", "arm"),
)  # fmt: skip
NOVEL_ADJECTIVES = (("clever", "klug"), ("happy", "froh"), ("thin", "dünn"), ("blind", "blind"))
# English infinitive, third person, past; German third person, infinitive.
VERBS = (
    ("see", "sees", "saw", "sieht", "sehen"), ("love", "loves", "loved", "liebt", "lieben"),
    ("look for", "looks for", "looked for", "sucht", "suchen"), ("find", "finds", "found",
    "findet", "finden"), ("hear", "hears", "heard", "hört", "hören"), ("know", "knows", "knew",
    "kennt", "kennen"), ("paint", "paints", "painted", "malt", "malen"), ("carry", "carries",
    "carried", "trägt", "tragen"), ("ask", "asks", "asked", "fragt", "fragen"), ("wash", "washes",
    "washed", "wäscht", "waschen"),
)  # fmt: skip
NOVEL_VERBS = (
    ("follow", "follows", "followed", "verfolgt", "verfolgen"),
    ("greet", "greets", "greeted", "grüßt", "grüßen"),
    ("bite", "bites", "bit", "beißt", "beißen"),
    ("hide", "hides", "hid", "versteckt", "verstecken"),
)
ADVERBS = (
    ("today", "heute"), ("now", "jetzt"), ("often", "oft"), ("always", "immer"),
    ("here", "hier"), ("sometimes", "manchmal"),
)  # fmt: skip
_ARTICLES = {
    ("m", "nom"): "der", ("f", "nom"): "die", ("n", "nom"): "das",
    ("m", "acc"): "den", ("f", "acc"): "die", ("n", "acc"): "das",
}  # fmt: skip


# One noun in ten, one adjective in ten and one verb in ten is novel.
_NOVEL_ONE_IN = 10
T = TypeVar("T")


@dataclass(frozen=True)
class Sentence:
    """One clause in English and German, with English variants of the same clause."""

    english: str
    german: str
    past: str
    negated: str
    subject: str
    novel: bool


class _Words:
    """A generator of words that records whether any drawn word was novel."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.novel = rng, False

    def choice(self, known: Sequence[T], novel: Sequence[T]) -> T:
        if self.rng.randrange(_NOVEL_ONE_IN):
            return self.rng.choice(known)
        self.novel = True
        return self.rng.choice(novel)


def _phrase(words: _Words, noun: tuple[str, str, str], case: str) -> tuple[str, str]:
    english, german, gender = noun
    article = _ARTICLES[gender, case]
    if words.rng.random() < 0.5:
        return f"the {english}", f"{article} {german}"
    adjective, stem = words.choice(ADJECTIVES, NOVEL_ADJECTIVES)
    ending = "en" if (gender, case) == ("m", "acc") else "e"
    return f"the {adjective} {english}", f"{article} {stem}{ending} {german}"


def sentence(rng: random.Random) -> Sentence:
    """Draw one clause: plain, with a fronted adverb, or with a modal verb."""
    words = _Words(rng)
    first = second = words.choice(NOUNS, NOVEL_NOUNS)
    while second == first:
        second = words.choice(NOUNS, NOVEL_NOUNS)
    subject, subject_de = _phrase(words, first, "nom")
    thing, thing_de = _phrase(words, second, "acc")
    infinitive, third, past, third_de, infinitive_de = words.choice(VERBS, NOVEL_VERBS)
    adverb, adverb_de = rng.choice(ADVERBS)
    kind = rng.randrange(4)
    if kind <= 1:
        front, english = "", f"{subject} {third} {thing}"
        german = f"{subject_de} {third_de} {thing_de}"
    elif kind == 2:
        # The finite verb stays second in German, so the subject moves behind it.
        front, english = f"{adverb} ", f"{adverb} {subject} {third} {thing}"
        german = f"{adverb_de} {third_de} {subject_de} {thing_de}"
    else:
        front, english = "", f"{subject} wants to {infinitive} {thing}"
        german = f"{subject_de} will {thing_de} {infinitive_de}"
    return Sentence(
        english=english,
        german=german,
        past=f"{front}{subject} {past} {thing}",
        negated=f"{front}{subject} does not {infinitive} {thing}",
        subject=subject,
        novel=words.novel,
    )
