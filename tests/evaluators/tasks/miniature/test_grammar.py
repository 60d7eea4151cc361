import random

from kilobit.evaluators.tasks.miniature import grammar


def test_german_puts_the_verb_second_and_declines_the_object() -> None:
    rng = random.Random(3)
    pairs = {s.english: s.german for s in (grammar.sentence(rng) for _ in range(60000))}
    assert pairs["the dog sees the man"] == "der Hund sieht den Mann"
    assert pairs["today the dog sees the man"] == "heute sieht der Hund den Mann"
    assert pairs["the dog wants to see the man"] == "der Hund will den Mann sehen"
    assert any("den großen" in german for german in pairs.values())
