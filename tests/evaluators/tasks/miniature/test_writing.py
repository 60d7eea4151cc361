import random

import pytest

from kilobit.evaluators.tasks.miniature import writing


def test_the_generated_response_passes_its_own_constraint() -> None:
    rng = random.Random(2)
    kinds = set()
    for _ in range(3000):
        item = writing.instruction(rng)
        kinds.add(item.kind)
        assert writing.satisfies(item.response, item.kind, item.argument, item.topic), item
        for cheat in ("", item.text, item.topic, "Not today."):
            passed = writing.satisfies(cheat, item.kind, item.argument, item.topic)
            assert not passed or cheat == item.topic, (cheat, item)
    assert kinds == {*writing.KNOWN_KINDS, *writing.NOVEL_KINDS}


@pytest.mark.parametrize(
    ("text", "kind", "argument", "passes"),
    [
        ("THE DOG RUNS.", "capitals", "", True),
        ("The dog runs.", "capitals", "", False),
        ("The dog runs.", "count", "3", True),
        ("The dog runs.", "count", "4", False),
        ("The dog runs here.", "end", "here", True),
        ("Today the dog runs.", "start", "Today", True),
        ("The red dog runs.", "use", "red", True),
        ("Does the dog run?", "question", "", True),
        ('"The dog runs."', "quotes", "", True),
        ("The dog runs. The dog runs.", "twice", "", True),
        ("The dog runs. The dog sings.", "twice", "", False),
        ("the dog runs.", "small", "", True),
        ("The dog runs!", "shout", "", True),
        ("The dog runs. " * 3, "thrice", "", True),
        ("The dog runs. " * 2, "thrice", "", False),
        ("The cat runs.", "count", "3", False),
        ("The dog " + "runs " * 11, "start", "The", False),
    ],
)
def test_constraints(text: str, kind: str, argument: str, passes: bool) -> None:
    assert writing.satisfies(text, kind, argument, "dog") is passes
