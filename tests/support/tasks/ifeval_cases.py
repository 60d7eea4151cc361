"""Prompts of all instruction types with responses that follow them, or nearly do."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from kilobit.evaluators.tasks.published import ifeval
from kilobit.search.task import Example

RELATIONS = ("less than", "at least")
SENTENCES = (
    "The old harbour lies quiet in the morning light.",
    "Several boats wait for their owners to come back.",
    "Dr. Smith walked home at 5 p.m. and was very tired.",
    "NASA and the EU agreed on a common plan!",
    "Would you like to see the garden, the house and the lake?",
    "It rained for weeks... nobody minded.",
    "We bought bread, cheese and 3.5 litres of milk.",
    "Every child in the village knows this song.",
)
GERMAN = "Der alte Hafen liegt still im Morgenlicht, und niemand ist zu sehen."
FRENCH = "Le vieux port est calme dans la lumière du matin, personne ne parle."
WORDS = ("harbour", "garden", "song", "bread", "river")

Arguments = dict[str, Any]
Change = Callable[[str, Arguments, random.Random], str]


def prose(rng: random.Random) -> str:
    paragraphs = [
        " ".join(rng.choices(SENTENCES, k=rng.randint(1, 5))) for _ in range(rng.randint(1, 3))
    ]
    return "\n\n".join(paragraphs)


def _relation(rng: random.Random, number: str, low: int, high: int) -> Arguments:
    return {"relation": rng.choice(RELATIONS), number: rng.randint(low, high)}


def _bullets(text: str, args: Arguments, rng: random.Random) -> str:
    mark = rng.choice("*-")
    return text + "".join(f"\n{mark} point {i}" for i in range(args["num_bullets"]))


def _sections(text: str, args: Arguments, rng: random.Random) -> str:
    mark = args["section_spliter"]
    return "\n".join(f"{mark} {i + 1}\n{text}" for i in range(args["num_sections"]))


def _nth_paragraph(text: str, args: Arguments, rng: random.Random) -> str:
    parts = [SENTENCES[i % 8] for i in range(args["num_paragraphs"])]
    at = args["nth_paragraph"] - 1
    parts[at] = f"{args['first_word'].title()}, {parts[at]}"
    return "\n\n".join(parts)


def _plainly(text: str, args: Arguments, rng: random.Random) -> str:
    return text


# Type: its arguments, and a change after which a text follows it in most cases.
KINDS: dict[str, tuple[Callable[[random.Random], Arguments], Change]] = {
    "keywords:existence": (
        lambda rng: {"keywords": rng.sample(WORDS, 2)},
        lambda t, a, r: f"{t} {a['keywords'][0].upper()} and {a['keywords'][1]}.",
    ),
    "keywords:frequency": (
        lambda rng: {"keyword": rng.choice(WORDS), **_relation(rng, "frequency", 1, 3)},
        lambda t, a, r: t + f" {a['keyword']}" * r.randint(0, 3),
    ),
    "keywords:forbidden_words": (
        lambda rng: {"forbidden_words": rng.sample(WORDS, 2)},
        lambda t, a, r: t.replace(a["forbidden_words"][0], "x").replace(
            a["forbidden_words"][1], "y"
        ),
    ),
    "keywords:letter_frequency": (
        lambda rng: {
            "letter": rng.choice("ezqK"),
            "let_relation": rng.choice(RELATIONS),
            "let_frequency": rng.randint(1, 9),
        },
        lambda t, a, r: t + a["letter"] * r.randint(0, 9),
    ),
    "language:response_language": (
        lambda rng: {"language": rng.choice(("de", "fr", "en"))},
        lambda t, a, r: {"de": GERMAN, "fr": FRENCH, "en": t}[a["language"]],
    ),
    "length_constraints:number_sentences": (
        lambda rng: _relation(rng, "num_sentences", 2, 8),
        _plainly,
    ),
    "length_constraints:number_paragraphs": (
        lambda rng: {"num_paragraphs": rng.randint(2, 3)},
        lambda t, a, r: "\n***\n".join([t] * a["num_paragraphs"]),
    ),
    "length_constraints:number_words": (
        lambda rng: _relation(rng, "num_words", 10, 60),
        _plainly,
    ),
    "length_constraints:nth_paragraph_first_word": (
        lambda rng: {
            "num_paragraphs": 3,
            "nth_paragraph": rng.randint(1, 3),
            "first_word": rng.choice(WORDS),
        },
        _nth_paragraph,
    ),
    "detectable_content:number_placeholders": (
        lambda rng: {"num_placeholders": rng.randint(1, 3)},
        lambda t, a, r: t + " [name] [address] [town]",
    ),
    "detectable_content:postscript": (
        lambda rng: {"postscript_marker": rng.choice(("P.S.", "P.P.S"))},
        lambda t, a, r: f"{t}\n\n{a['postscript_marker']} Bring an umbrella.",
    ),
    "detectable_format:number_bullet_lists": (
        lambda rng: {"num_bullets": rng.randint(1, 4)},
        _bullets,
    ),
    "detectable_format:constrained_response": (
        lambda rng: {},
        lambda t, a, r: f"My answer is {r.choice(('yes', 'no', 'maybe'))}.",
    ),
    "detectable_format:number_highlighted_sections": (
        lambda rng: {"num_highlights": rng.randint(1, 3)},
        lambda t, a, r: t + " *one* and **two** and *three*",
    ),
    "detectable_format:multiple_sections": (
        lambda rng: {
            "section_spliter": rng.choice(("Section", "SECTION", "PART")),
            "num_sections": rng.randint(2, 4),
        },
        _sections,
    ),
    "detectable_format:json_format": (
        lambda rng: {},
        lambda t, a, r: "```json\n" + json.dumps({"text": t}) + "\n```",
    ),
    "detectable_format:title": (lambda rng: {}, lambda t, a, r: f"<<A morning>>\n{t}"),
    "combination:two_responses": (lambda rng: {}, lambda t, a, r: f"{t}\n******\n{t} Or so."),
    "combination:repeat_prompt": (
        lambda rng: {"prompt_to_repeat": "Write about a harbour."},
        lambda t, a, r: f"Write about a harbour.\n{t}",
    ),
    "startend:end_checker": (
        lambda rng: {"end_phrase": "Is there anything else I can help with?"},
        lambda t, a, r: f"{t} {a['end_phrase']}",
    ),
    "startend:quotation": (lambda rng: {}, lambda t, a, r: f'"{t}"'),
    "change_case:capital_word_frequency": (
        lambda rng: {
            "capital_relation": rng.choice(RELATIONS),
            "capital_frequency": rng.randint(1, 4),
        },
        lambda t, a, r: t + " VERY GOOD" * r.randint(0, 2),
    ),
    "change_case:english_capital": (lambda rng: {}, lambda t, a, r: t.upper()),
    "change_case:english_lowercase": (lambda rng: {}, lambda t, a, r: t.lower()),
    "punctuation:no_comma": (lambda rng: {}, lambda t, a, r: t.replace(",", "")),
}


def spoiled(text: str, rng: random.Random) -> str:
    """Return a response with what the loose checks take away again, or with nothing left."""
    return rng.choice(
        (
            f"Sure, here is what you asked for:\n{text}",
            f"{text}\nI hope this helps, tell me if not.",
            f"Sure!\n{text}\nDone.",
            f"**{text}**",
            f"* {text}",
            "",
            " \n ",
            "…\n\n",
            "1234 5678",
            prose(rng),
        )
    )


def records(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Return records in IFEval's format with one to three instructions each and a `response`."""
    found = []
    for number in range(count):
        kinds = [
            list(KINDS)[number % len(KINDS)],
            *rng.sample(list(KINDS), rng.choice((0, 0, 1, 2))),
        ]
        kinds = list(dict.fromkeys(kinds))
        arguments = [KINDS[kind][0](rng) for kind in kinds]
        response = prose(rng)
        for kind, given in reversed(list(zip(kinds, arguments, strict=True))):
            response = KINDS[kind][1](response, given, rng)
        if rng.random() < 0.4:
            response = spoiled(response, rng)
        record = {
            "key": 1000 + number,
            "prompt": f"Write about a harbour. ({number})",
            "instruction_id_list": kinds,
            "kwargs": arguments,
            "response": response,
        }
        found.append(record)
    return found


def instruction_types() -> tuple[str, ...]:
    """Return the known types of instructions.

    Raises:
        ValueError: if the packages are missing.
    """
    return tuple(sorted(ifeval._harness().instructions_registry.INSTRUCTION_DICT))


def four_scores(outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return the four published scores: strict and loose, by prompts and by instructions."""
    pairs = zip(outputs, examples, strict=True)
    found = [ifeval._followed(output, example) for output, example in pairs]
    scores = {}
    for level in ("strict", "loose"):
        each: list[tuple[bool, ...]] = [getattr(one, level) for one in found]
        scores[f"prompt_level_{level}_acc"] = sum(map(all, each)) / len(each)
        scores[f"inst_level_{level}_acc"] = sum(map(sum, each)) / sum(map(len, each))
    return scores
