import math
import random
from collections import Counter

import pytest

from kilobit.search.candidate import Candidate
from kilobit.search.front.pareto import REFERENCE_BITS, hypervolume
from kilobit.search.proposers.evolution import Member, Population, pick


def member(bits: int, score: float, *, known: bool = True) -> Member:
    candidate = Candidate(task="t", model="m", max_new_tokens=bits) if known else None
    return Member(f"{bits}-{score}", bits, score, candidate)


def test_the_hypervolume_is_the_area_that_is_counted_square_by_square() -> None:
    rng = random.Random(1)
    points = [member(2 ** rng.randint(0, 30), rng.randint(0, 10) / 10) for _ in range(12)]
    squares = sum(
        any(p.length <= x and p.score >= (y + 0.5) / 10 for p in points)
        for x in range(int(math.log2(REFERENCE_BITS)))
        for y in range(10)
    )
    assert hypervolume(points) == pytest.approx(squares / 10)
    assert hypervolume([]) == 0


def test_a_gain_is_the_growth_of_the_front_of_its_rung() -> None:
    population, rng = Population(), random.Random(2)
    seen: list[Member] = []
    for i in range(200):
        new = member(rng.randint(1, 4000), rng.randint(0, 200) / 200)
        if new.name in {m.name for m in seen}:
            continue
        gain = population.add(1, new)
        expected = hypervolume([*seen, new]) - hypervolume(seen) if seen else 0.0
        assert gain == pytest.approx(expected), i
        seen.append(new)
    assert len(population.members()) < 60
    assert population.add(2, member(1, 1.0)) == 0


def test_parents_are_near_the_front_at_the_highest_rung_that_has_enough() -> None:
    population = Population()
    for i in range(8):
        population.add(0, member(100 + i, i / 10))
    population.add(1, member(100, 0.9))
    assert {m.bits for m in population.members()} == set(range(100, 108))
    for bits, score in ((90, 0.2), (200, 0.95), (210, 0.94), (220, 0.93), (230, 0.92)):
        population.add(1, member(bits, score))
    population.add(1, member(80, 0.1, known=False))
    # 220 and 230 are behind both the front and the front of the rest.
    assert sorted(m.bits for m in population.members()) == [90, 100, 200, 210]


def test_parents_are_spread_over_lengths() -> None:
    members = [*(member(1000 + i, 0.5) for i in range(30)), member(1_000_000, 0.6)]
    rng = random.Random(0)
    counts = Counter((pick(members, rng) or members[0]).bits for _ in range(400))
    assert 150 < counts[1_000_000] < 250
    assert pick(members, rng, lambda m: m.bits == 1003) == members[3]
    assert pick([], rng) is None


def test_members_are_named() -> None:
    assert Member("x", 1024, 0.5, None).length == 10
