"""Prompts in IFEval's format with instructions of all 25 types, in words of our own."""

import random
from collections.abc import Callable
from typing import Any

KINDS_OF_TEXT = ("a short story", "a letter", "a blog post", "a product description", "a speech")
TOPICS = (
    "a harbour in winter", "the first day at a new school", "a lost umbrella", "growing tomatoes",
    "a train that is never late", "learning to swim", "an old radio", "the night sky",
    "a bakery at five in the morning", "moving to another town", "a neighbour's dog",
    "repairing a bicycle", "a walk in the rain", "a library without walls", "cooking for friends",
    "a broken clock", "the smell of paper", "a long bridge",
)  # fmt: skip
WORDS = ("river", "lantern", "promise", "market", "silver", "patience", "window", "journey")
LANGUAGES = {"de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese"}
PHRASES = ("That is all there is to say.", "And so it ends.", "Tell me what you think.")

Drawn = tuple[str, dict[str, Any]]


def _compared(rng: random.Random, low: int, high: int) -> tuple[str, int]:
    return rng.choice(("less than", "at least")), rng.randint(low, high)


def _words(rng: random.Random) -> Drawn:
    relation, number = _compared(rng, 60, 200)
    return f"Use {relation} {number} words.", {"relation": relation, "num_words": number}


def _sentences(rng: random.Random) -> Drawn:
    relation, number = _compared(rng, 5, 15)
    return f"Use {relation} {number} sentences.", {"relation": relation, "num_sentences": number}


def _keyword(rng: random.Random) -> Drawn:
    word, (relation, number) = rng.choice(WORDS), _compared(rng, 2, 4)
    text = f"The word {word} should come up {relation} {number} times."
    return text, {"keyword": word, "frequency": number, "relation": relation}


def _letter(rng: random.Random) -> Drawn:
    letter, (relation, number) = rng.choice("bkvwz"), _compared(rng, 4, 12)
    text = f"The letter {letter} should come up {relation} {number} times."
    return text, {"letter": letter, "let_frequency": number, "let_relation": relation}


def _capitals(rng: random.Random) -> Drawn:
    relation, number = _compared(rng, 2, 6)
    text = f"Write {relation} {number} words in capital letters."
    return text, {"capital_relation": relation, "capital_frequency": number}


def _existence(rng: random.Random) -> Drawn:
    words = rng.sample(WORDS, 2)
    return f"Use the words {words[0]} and {words[1]}.", {"keywords": words}


def _forbidden(rng: random.Random) -> Drawn:
    words = rng.sample(WORDS, 2)
    return f"Don't use the words {words[0]} or {words[1]}.", {"forbidden_words": words}


def _dividers(rng: random.Random) -> Drawn:
    number = rng.randint(2, 4)
    text = f"Write {number} paragraphs with the divider *** between them."
    return text, {"num_paragraphs": number}


def _first_word(rng: random.Random) -> Drawn:
    number, word = rng.randint(2, 4), rng.choice(WORDS)
    nth = rng.randint(1, number)
    text = (
        f"Write {number} paragraphs with an empty line between them; paragraph {nth} begins with "
        f"the word {word}."
    )
    return text, {"num_paragraphs": number, "nth_paragraph": nth, "first_word": word}


def _placeholders(rng: random.Random) -> Drawn:
    number = rng.randint(1, 4)
    text = f"Leave at least {number} places to be filled in, in square brackets such as [name]."
    return text, {"num_placeholders": number}


def _postscript(rng: random.Random) -> Drawn:
    mark = rng.choice(("P.S.", "P.P.S"))
    return f"Add a postscript that begins with {mark} at the end.", {"postscript_marker": mark}


def _bullets(rng: random.Random) -> Drawn:
    number = rng.randint(2, 5)
    text = f"Include exactly {number} points of a markdown list, each on a line after *."
    return text, {"num_bullets": number}


def _highlights(rng: random.Random) -> Drawn:
    number = rng.randint(1, 4)
    text = f"Highlight at least {number} phrases in markdown, *like this*."
    return text, {"num_highlights": number}


def _sections(rng: random.Random) -> Drawn:
    number, mark = rng.randint(2, 4), rng.choice(("Section", "SECTION"))
    text = f"Divide it into {number} parts that begin with {mark} 1, {mark} 2 and so on."
    return text, {"section_spliter": mark, "num_sections": number}


def _ending(rng: random.Random) -> Drawn:
    phrase = rng.choice(PHRASES)
    return f'The very last words are "{phrase}"', {"end_phrase": phrase}


def _language(rng: random.Random) -> Drawn:
    code = rng.choice(list(LANGUAGES))
    return f"Write all of it in {LANGUAGES[code]}.", {"language": code}


def _plain(text: str) -> Callable[[random.Random], Drawn]:
    return lambda rng: (text, {})


# What can be asked for together; types of one group of `_ONE_OF` contradict each other.
TOGETHER: dict[str, Callable[[random.Random], Drawn]] = {
    "length_constraints:number_words": _words,
    "length_constraints:number_sentences": _sentences,
    "keywords:frequency": _keyword,
    "keywords:letter_frequency": _letter,
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden,
    "change_case:capital_word_frequency": _capitals,
    "length_constraints:number_paragraphs": _dividers,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:title": _plain("Give it a title in double angle brackets, <<like this>>."),
    "punctuation:no_comma": _plain("Don't use any comma."),
    "startend:end_checker": _ending,
}
ALONE: dict[str, Callable[[random.Random], Drawn]] = {
    "language:response_language": _language,
    "change_case:english_capital": _plain("Write in English and in capital letters only."),
    "change_case:english_lowercase": _plain("Write in English and in small letters only."),
    "combination:two_responses": _plain("Write two different versions with ****** between them."),
    "startend:quotation": _plain("Put all of it between double quotation marks."),
    "detectable_format:json_format": _plain("Return it as JSON and nothing else."),
}
_ONE_OF = (
    {"keywords:frequency", "keywords:existence", "keywords:forbidden_words"},
    {
        "length_constraints:number_paragraphs",
        "length_constraints:nth_paragraph_first_word",
        "detectable_format:multiple_sections",
        "detectable_format:number_bullet_lists",
    },
    {"length_constraints:number_words", "length_constraints:number_sentences"},
    {"detectable_content:postscript", "startend:end_checker"},
)


def _kinds(rng: random.Random, first: str) -> list[str]:
    """Return types that go together, `first` at the front."""
    kinds = [first]
    if first in ALONE or rng.random() < 0.4:
        return kinds
    for other in rng.sample(list(TOGETHER), rng.choice((1, 2))):
        if other not in kinds and not any(other in g and set(kinds) & g for g in _ONE_OF):
            kinds.append(other)
    return kinds


def _record(rng: random.Random, key: int, first: str) -> dict[str, Any]:
    asked = f"Write {rng.choice(KINDS_OF_TEXT)} about {rng.choice(TOPICS)}."
    if first == "combination:repeat_prompt":
        text = f"{asked} Before that, repeat this request word for word: {asked}"
        return _as_record(key, text, [first], [{"prompt_to_repeat": asked}])
    if first == "detectable_format:constrained_response":
        text = (
            f"Would you enjoy reading about {rng.choice(TOPICS)}? Answer with one of these: My "
            "answer is yes. My answer is no. My answer is maybe."
        )
        return _as_record(key, text, [first], [{}])
    kinds = _kinds(rng, first)
    drawn = [(TOGETHER | ALONE)[kind](rng) for kind in kinds]
    text = " ".join([asked, *(words for words, _ in drawn)])
    return _as_record(key, text, kinds, [arguments for _, arguments in drawn])


def _as_record(
    key: int, text: str, kinds: list[str], arguments: list[dict[str, Any]]
) -> dict[str, Any]:
    return {"key": key, "prompt": text, "instruction_id_list": kinds, "kwargs": arguments}


def prompts(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Return `count` records with different prompts, all types in turns."""
    firsts = [
        *TOGETHER,
        *ALONE,
        "combination:repeat_prompt",
        "detectable_format:constrained_response",
    ]
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        record = _record(rng, len(found), firsts[len(found) % len(firsts)])
        found.setdefault(record["prompt"], record)
    return list(found.values())
