"""A replayed search counts what it would have generated, and decides as a run does."""

import random

import pytest

from benchmarks.simulation import Course, Track, simulate
from kilobit.search.candidate import RungConfig
from kilobit.search.schedulers.asha import Full
from kilobit.search.schedulers.bits_aware import BitsAware

RUNGS = RungConfig(examples=6, train_steps=10, eta=3, count=3).ladder()
SIZES = [rung.num_examples for rung in RUNGS]
SHAPE = {"num_rungs": 3, "eta": 3}


def track(name: str, bits: int, skill: float, *, outputs: str = "", trained_at: int = 0) -> Track:
    rng = random.Random(name)
    scores = tuple(float(rng.random() < skill) for _ in range(SIZES[-1]))
    examples = tuple(scores[:size] for size in SIZES)
    return Track(
        candidate=name,
        model="m",
        bound_bits=bits,
        bits=(bits,) * 3,
        scores=tuple(sum(found) / len(found) for found in examples),
        examples=examples,
        train_s=(1.0, 2.0, 3.0) if trained_at else (0.0,) * 3,
        example_s=(0.1,) * 3,
        trained_at=trained_at,
        outputs=tuple(outputs or f"{name}-{min(trained_at, i)}" for i in range(3)),
    )


def names(course: Course) -> list[str]:
    return [done.candidate for done in course.finished]


def test_full_evaluation_scores_everybody_on_all_examples() -> None:
    tracks = [track("a", 8, 0.5), track("b", 80, 0.9)]
    course = simulate(tracks, Full(**SHAPE), RUNGS)
    assert names(course) == ["a", "b"]
    assert [done.examples for done in course.finished] == [54, 108]
    assert (course.examples, course.decisions) == (108, 2)
    assert course.seconds == pytest.approx(2 * 54 * 0.1)
    assert [done.score for done in course.finished] == [t.scores[-1] for t in tracks]


def test_examples_of_an_earlier_rung_and_of_equal_programs_come_from_the_cache() -> None:
    alone = simulate([track("a", 8, 1.0)], BitsAware(**SHAPE, sizes=SIZES), RUNGS)
    assert alone.examples == 54
    twins = [track("a", 8, 0.2, outputs="same"), track("b", 8, 1.0, outputs="same")]
    assert simulate(twins, Full(**SHAPE), RUNGS).examples == 54


def test_other_training_makes_other_outputs() -> None:
    trained = track("t", 8, 1.0, trained_at=2)
    course = simulate([trained], BitsAware(**SHAPE, sizes=SIZES), RUNGS)
    assert course.examples == 6 + 18 + 54
    assert course.seconds == pytest.approx((6 + 18 + 54) * 0.1 + 6.0)


def test_who_is_worse_than_a_shorter_one_stops_and_a_race_stops_it_sooner() -> None:
    tracks = [track("good", 8, 0.9), track("bad", 80, 0.0)]
    plain = simulate(tracks, BitsAware(**SHAPE, sizes=SIZES), RUNGS)
    raced = simulate(tracks, BitsAware(**SHAPE, sizes=SIZES), RUNGS, level=0.05, block=2)
    assert names(plain) == names(raced) == ["good"]
    assert plain.examples == 54 + 6
    assert raced.examples < plain.examples


def test_workers_share_the_clock_and_the_same_order_gives_the_same_course() -> None:
    tracks = [track(f"c{i}", 8 + i, 0.3 + i / 30) for i in range(12)]
    one = simulate(tracks, Full(**SHAPE), RUNGS)
    three = simulate(tracks, Full(**SHAPE), RUNGS, workers=3)
    assert three.seconds * 3 == pytest.approx(one.seconds)
    assert three == simulate(tracks, Full(**SHAPE), RUNGS, workers=3)
    halving = [simulate(tracks, BitsAware(**SHAPE, sizes=SIZES), RUNGS, workers=2) for _ in "ab"]
    assert halving[0] == halving[1]
