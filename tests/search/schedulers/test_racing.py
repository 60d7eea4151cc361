import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binom

from benchmarks.oracles import EValues, e_values
from kilobit.search.schedulers.racing import (
    Incumbent,
    Race,
    RacingConfig,
    Verdict,
    incumbent_of,
)

QUARTER = st.integers(0, 4).map(lambda n: n / 4)
SCORE = st.floats(0, 1)
PAIRS = st.lists(st.tuples(SCORE, SCORE), max_size=60)


def columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]


def finished(level: float, pairs: Sequence[tuple[float, float]], *, known: bool) -> Race:
    mine, theirs = columns(pairs)
    race = Race(level, theirs if known else None)
    race.add(mine, theirs)
    return race


def verdict_on(level: float, mine: Any, theirs: Any, *, known: bool) -> Verdict | None:
    return Race(level, theirs if known else None).add(mine, theirs)


def test_evidence_of_three_examples_is_what_one_gets_by_hand() -> None:
    race = Race(0.05)
    assert e_values(race) == EValues(beats=1, loses=1)
    # Differences -1, 0, -0.5: the bets of 0.4 and 0.9 win 1.4 * 1.2 and 1.9 * 1.45.
    assert race.add([0, 1, 0], [1, 1, 0.5]) is None
    assert e_values(race).loses == pytest.approx((1.4 * 1.2 + 1.9 * 1.45) / 2, rel=1e-12)
    assert e_values(race).beats == pytest.approx((0.6 * 0.8 + 0.1 * 0.55) / 2, rel=1e-12)
    assert race.num_examples == 3


def test_evidence_on_a_known_rung_is_what_one_gets_by_hand() -> None:
    race = Race(0.05, [1, 0, 1, 0])
    # One example lost: for equal means the other three must have a mean difference of 1/3. The
    # second has 0, which is half of the way from 1/3 to 1 below it, a quarter of that to -1 above.
    assert race.add([0, 0], [1, 0]) is None
    assert e_values(race).loses == pytest.approx((1.4 * 1.2 + 1.9 * 1.45) / 2, rel=1e-12)
    assert e_values(race).beats == pytest.approx((0.6 * 0.9 + 0.1 * 0.775) / 2, rel=1e-12)


def test_six_straight_losses_are_enough_at_5_percent_and_five_are_not() -> None:
    race = Race(0.05)
    assert race.add([0] * 5, [1] * 5) is None
    assert race.add([0], [1]) == "loses"
    assert verdict_on(0.05, [1] * 5, [0] * 5, known=False) is None
    assert verdict_on(0.05, [1] * 6, [0] * 6, known=False) == "beats"
    assert verdict_on(0.01, [0] * 6, [1] * 6, known=False) is None


@pytest.mark.parametrize("known", [False, True])
def test_ties_never_end_a_race(known: bool) -> None:
    race = finished(0.999, [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3)] * 100, known=known)
    assert race.num_examples == 300
    assert e_values(race) == EValues(beats=1, loses=1)
    assert race.add([], []) is None


def test_ties_between_differences_cost_nothing_where_the_rung_is_not_known() -> None:
    bare = finished(0.01, [(0.0, 1.0), (1.0, 0.0), (0.2, 0.9)], known=False)
    tied = [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.0, 1.0), (0.2, 0.9), (0.0, 0.0)]
    assert e_values(finished(0.01, tied, known=False)) == e_values(bare)


@given(PAIRS, st.lists(st.integers(0, 60), max_size=5), st.booleans())
def test_blocks_change_neither_verdict_nor_evidence(
    pairs: list[tuple[float, float]], cuts: list[int], known: bool
) -> None:
    mine, theirs = columns(pairs)
    whole = finished(0.2, pairs, known=known)
    parts = Race(0.2, theirs if known else None)
    verdict: Verdict | None = None
    for first, last in itertools.pairwise([0, *sorted(cuts), 60]):
        verdict = parts.add(mine[first:last], theirs[first:last])
        if verdict is not None:
            break
    assert verdict == whole.add([], [])
    assert (parts.num_examples, e_values(parts)) == (whole.num_examples, e_values(whole))


@given(PAIRS)
def test_a_race_the_other_way_round_has_the_other_winner(pairs: list[tuple[float, float]]) -> None:
    race = finished(0.2, pairs, known=False)
    mirror = finished(0.2, [(theirs, mine) for mine, theirs in pairs], known=False)
    assert mirror.num_examples == race.num_examples
    assert e_values(mirror) == EValues(*reversed(e_values(race)))
    other = {"beats": "loses", "loses": "beats", None: None}
    assert mirror.add([], []) == other[race.add([], [])]


@given(st.lists(st.tuples(QUARTER, QUARTER), min_size=1, max_size=9))
def test_counting_settles_a_known_rung_as_soon_as_a_brute_force(
    pairs: list[tuple[float, float]],
) -> None:
    expected: tuple[int, Verdict | None] = (len(pairs), None)
    mine, theirs = columns(pairs)
    for seen in range(1, len(pairs) + 1):
        worst, best = sum(mine[:seen]), sum(mine[:seen]) + len(pairs) - seen
        if worst > sum(theirs) or best < sum(theirs):
            expected = (seen, "beats" if worst > sum(theirs) else "loses")
            break
    # At this level nine examples can't give the evidence, so that only counting can end the race.
    race = finished(1e-300, pairs, known=True)
    assert (race.num_examples, race.add([], [])) == expected


def test_counting_is_exact_where_sums_of_floats_are_not() -> None:
    # As floats 0.1 + 0.2 + 0.3 > 0.3 + 0.2 + 0.1, though the sums are equal.
    race = Race(1e-9, [0.3, 0.2, 0.1])
    assert race.add([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]) is None
    tiny = 2.0**-1074
    assert verdict_on(1e-9, [1.0, 0.0, tiny], [1.0, tiny, 0.0], known=True) is None
    assert verdict_on(1e-9, [1.0, 0.0, tiny], [tiny, 1.0, 0.0], known=True) is None
    assert verdict_on(1e-9, [1.0, 0.0], [1.0, tiny], known=True) == "loses"


def expected_evidence(races: list[Race]) -> EValues:
    beats, loses = zip(*(e_values(race) for race in races), strict=True)
    return EValues(math.fsum(beats) / len(races), math.fsum(loses) / len(races))


@given(st.lists(st.tuples(QUARTER, QUARTER), min_size=1, max_size=5), st.sampled_from([0.9, 1e-9]))
def test_no_order_of_a_known_rung_is_expected_to_give_evidence_against_what_is_true(
    pairs: list[tuple[float, float]], level: float
) -> None:
    races = [finished(level, order, known=True) for order in itertools.permutations(pairs)]
    mine, theirs = columns(pairs)
    if sum(mine) >= sum(theirs):
        assert expected_evidence(races).loses <= 1 + 1e-9
    if sum(mine) <= sum(theirs):
        assert expected_evidence(races).beats <= 1 + 1e-9


@pytest.mark.parametrize("level", [0.9, 0.05])
@pytest.mark.parametrize(
    "kinds",
    [
        [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)],
        [(0.25, 0.0), (0.25, 0.0), (0.25, 0.0), (0.25, 1.0)],
        [(0.9, 0.8), (0.2, 0.3)],
    ],
)
def test_evidence_at_equal_means_is_expected_to_stay_at_one(
    kinds: list[tuple[float, float]], level: float
) -> None:
    races = [finished(level, draws, known=False) for draws in itertools.product(kinds, repeat=5)]
    assert expected_evidence(races) == pytest.approx((1, 1), rel=1e-9)


def verdicts_at_equal_score(
    level: float, known: bool, pairs: int = 1500, size: int = 32
) -> dict[Verdict, int]:
    rng = np.random.default_rng(7)
    counts: dict[Verdict, int] = {"beats": 0, "loses": 0}
    for _ in range(pairs):
        mine, theirs = (rng.random((2, size)) < 0.5).astype(float)
        if known:  # Both halves alike but for who is who: equal sums, in random order.
            half = size // 2
            both = np.array([[*mine[:half], *theirs[:half]], [*theirs[:half], *mine[:half]]])
            mine, theirs = both[:, rng.permutation(size)]
        verdict = verdict_on(level, mine, theirs, known=known)
        if verdict is not None:
            counts[verdict] += 1
    return counts


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("level", [0.05, 0.2])
def test_pairs_at_equal_score_are_told_apart_no_oftener_than_the_level(
    level: float, known: bool
) -> None:
    # More than this has a chance of one in a million if the true rate is the level.
    allowed = binom.isf(1e-6, 1500, level)
    counts = verdicts_at_equal_score(level, known)
    assert max(counts.values()) <= allowed
    # And the test can fail: verdicts are given, not withheld.
    assert min(counts.values()) > 0.2 * level * 1500


def test_clusters_break_the_level_for_new_examples_and_not_for_those_of_the_rung() -> None:
    def wrong(*, known: bool) -> int:
        rng, count = np.random.default_rng(1), 0
        for _ in range(1500):
            # Eight clusters of six, with equal scores within. New clusters would have equal means;
            # on a known rung, each side wins as many.
            pairs = rng.random((2, 8)) < 0.5
            if known:
                pairs[:, 4:] = pairs[::-1, :4]
            mine, theirs = np.repeat(pairs, 6, axis=1)[:, rng.permutation(48)].astype(float)
            count += verdict_on(0.05, mine, theirs, known=known) == "loses"
        return count

    allowed = binom.isf(1e-6, 1500, 0.05)
    assert 0.2 * 0.05 * 1500 < wrong(known=True) <= allowed
    assert wrong(known=False) > 2 * allowed


def test_a_clear_loser_is_eliminated_after_few_examples() -> None:
    rng = np.random.default_rng(3)
    used: dict[bool, list[int]] = {False: [], True: []}
    for _ in range(200):
        theirs = (rng.random(48) < 0.9).astype(float)
        mine = (rng.random(48) < 0.1).astype(float)
        for known, numbers in used.items():
            race = Race(0.05, theirs if known else None)
            assert race.add(mine, theirs) == "loses"
            numbers.append(race.num_examples)
    assert np.mean(used[False]) < 10
    assert np.mean(used[True]) < np.mean(used[False])


def test_a_verdict_is_final_and_nothing_after_it_counts() -> None:
    race = Race(0.05)
    assert race.add([0] * 20, [1] * 20) == "loses"
    before = (race.num_examples, e_values(race))
    assert before[0] == 6
    assert race.add([1] * 1000, [0] * 1000) == "loses"
    assert (race.num_examples, e_values(race)) == before


def test_long_races_stay_within_the_floats() -> None:
    race = Race(1e-320)
    for _ in range(400):
        race.add([0, 1], [1, 0])
    assert 0 <= e_values(race).loses < 1e-3
    assert race.add([0] * 3000, [1] * 3000) == "loses"
    assert e_values(race) == EValues(beats=0, loses=math.inf)


@given(st.lists(SCORE, min_size=1, max_size=30))
def test_a_rung_whose_rest_must_be_won_throughout_is_a_tie_if_it_is(scores: list[float]) -> None:
    # The second half makes up for the first exactly; at the end the bets grow without bound.
    lost, won = [(0.0, s) for s in scores], [(s, 0.0) for s in scores]
    assert finished(1e-300, lost + won, known=True).add([], []) is None


@pytest.mark.parametrize("level", [0, 1, -0.1, 2, math.nan, math.inf])
def test_a_level_that_is_no_chance_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        Race(level)


@pytest.mark.parametrize("bad", [math.nan, -0.01, 1.01, math.inf, -math.inf])
def test_a_score_that_is_none_is_refused_and_changes_nothing(bad: float) -> None:
    race = Race(0.05)
    race.add([0.2], [0.4])
    before = e_values(race)
    for mine, theirs in (([0.5, bad], [0.5, 0.5]), ([0.5, 0.5], [0.5, bad])):
        with pytest.raises(ValueError, match="outside"):
            race.add(mine, theirs)
    with pytest.raises(ValueError, match="outside"):
        Race(0.05, [0.5, bad])
    assert (race.num_examples, e_values(race)) == (1, before)


def test_blocks_that_do_not_fit_are_refused_and_change_nothing() -> None:
    race = Race(0.05, [0.5, 1, 0])
    race.add([1], [0.5])
    before = e_values(race)
    for mine, theirs, message in (
        ([1, 1], [1], "a block of 2 scores against one of 1"),
        ([1, 1, 1], [1, 0, 0], "4 examples in a rung that has 3"),
        ([1, 1], [1, 1], "example 2: the incumbent has 0.0, not 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            race.add(mine, theirs)
    assert (race.num_examples, e_values(race)) == (1, before)


@given(st.lists(st.tuples(st.integers(0, 4), QUARTER), max_size=12), st.integers(0, 5))
def test_the_incumbent_is_what_a_brute_force_finds(
    front: list[tuple[int, float]], bits: int
) -> None:
    named = [Incumbent(str(i), b, s) for i, (b, s) in enumerate(front)]
    found = incumbent_of(named, bits)
    within = sorted((-s, b, i) for i, (b, s) in enumerate(front) if b <= bits)
    assert found == (named[within[0][2]] if within else None)


@pytest.mark.parametrize("bad", [{"level": 0}, {"level": 1}, {"enabled": 3}, {"blocks": 6}])
def test_settings_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        RacingConfig.model_validate(bad)
    defaults = RacingConfig()
    assert (defaults.enabled, defaults.level) == (True, 0.05)
