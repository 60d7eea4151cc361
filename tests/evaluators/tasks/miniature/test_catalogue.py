import random

import pytest

from kilobit.evaluators.tasks.miniature import grammar, word_problems, writing
from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature, split_of


def test_every_answer_follows_from_its_steps() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        problem = word_problems.problem(rng)
        value = eval(problem.steps, {"__builtins__": {}})
        assert value == problem.answer
        assert problem.answer >= 0


@pytest.mark.parametrize(
    ("number", "words"), [(0, "zero"), (13, "thirteen"), (20, "twenty"), (58, "fifty eight")]
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert word_problems.in_words(number) == words


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


def test_german_puts_the_verb_second_and_declines_the_object() -> None:
    rng = random.Random(3)
    pairs = {s.english: s.german for s in (grammar.sentence(rng) for _ in range(60000))}
    assert pairs["the dog sees the man"] == "der Hund sieht den Mann"
    assert pairs["today the dog sees the man"] == "heute sieht der Hund den Mann"
    assert pairs["the dog wants to see the man"] == "der Hund will den Mann sehen"
    assert any("den großen" in german for german in pairs.values())


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_splits_are_disjoint_and_follow_the_hash(name: str) -> None:
    splits = load_miniature(name, 0).splits
    for split in ("train", "search", "sealed"):
        examples = getattr(splits, split)
        assert len(examples) == 512
        assert {split_of(e.input) for e in examples} == {split}


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_the_seed_decides_items_and_order(name: str) -> None:
    first, again, other = (load_miniature(name, seed).splits.search for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_a_gold_echo_scores_one_and_an_empty_answer_nothing(name: str) -> None:
    task = load_miniature(name, 0)
    examples = task.splits.sealed
    assert task.metric.corpus([e.target for e in examples], examples).score == pytest.approx(1.0)
    assert task.metric.corpus([""] * len(examples), examples).score == 0.0
