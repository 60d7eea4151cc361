import math
import random
import statistics
import time
import tracemalloc
from typing import Any

import pytest

from kilobit.search.schedulers.bits_aware import BitsAware, RungJudge
from kilobit.search.schedulers.racing import incumbent_of
from kilobit.search.schedulers.scheduler import Decision, Result

SIZES = (18, 54, 162)


def rule() -> BitsAware:
    return BitsAware(num_rungs=3, eta=3, sizes=SIZES)


def report(
    scheduler: BitsAware, name: str, rung: int, score: float, bits: int, **more: Any
) -> Decision:
    return scheduler.report(Result(name, "m", rung, score, bits, **more))


def names(scheduler: BitsAware, rung: int, left: int = 0) -> list[str]:
    return [one.candidate for one in scheduler.incumbents("m", rung, left=left)]


def test_who_has_nobody_to_beat_goes_on() -> None:
    decision = report(rule(), "a", 0, 0.1, 8)
    assert (decision.action, decision.reason) == ("promote", "no incumbent is as short")


@pytest.mark.parametrize(("gap", "action"), [(0.1, "promote"), (0.0, "stop"), (-0.1, "stop")])
def test_who_is_not_above_the_incumbent_stops(gap: float, action: str) -> None:
    scheduler = rule()
    report(scheduler, "a", 0, 0.5, 8)
    decision = report(scheduler, "b", 0, 0.5 + gap, 800, gap=gap, against="a")
    assert decision.action == action
    assert decision.compared_with == ("a",)
    assert f"{gap:+.3f}" in decision.reason


def test_who_lost_its_race_stops_at_any_rung() -> None:
    scheduler = rule()
    lost: dict[str, Any] = {"gap": 0.1, "against": "a", "verdict": "loses"}
    assert report(scheduler, "b", 0, 0.9, 80, **lost).action == "stop"
    assert report(scheduler, "c", 2, 0.9, 80, **lost).action == "stop"
    assert names(scheduler, 2) == []


def test_one_in_training_may_be_below_and_is_not_held_against_the_trained() -> None:
    scheduler = rule()
    report(scheduler, "prompt", 0, 0.8, 8)
    assert names(scheduler, 0) == ["prompt"]
    assert names(scheduler, 0, left=2) == []
    for i, gap in enumerate((None, -0.1, -0.2, -0.3)):
        more = {} if gap is None else {"gap": gap, "against": "t0"}
        decision = report(scheduler, f"t{i}", 0, 0.5 + (gap or 0), 800, left=2, **more)
    # Six of the same length: two may go on, and the best gap is one of them.
    assert decision.action == "stop"
    report(scheduler, "t4", 0, 0.1, 800, left=2, gap=-0.4, against="t0")
    better = report(scheduler, "t5", 0, 0.45, 800, left=2, gap=-0.05, against="t0")
    assert better.action == "promote"
    assert "dominated by 1 of 6 of similar length, promoted if by fewer than 2" in better.reason


def test_one_that_has_hardly_been_trained_is_not_judged_yet() -> None:
    scheduler = BitsAware(num_rungs=4, eta=3, sizes=(6, 18, 54, 162))
    report(scheduler, "a", 0, 0.9, 800, left=3)
    for i in range(5):
        early = report(scheduler, f"e{i}", 0, 0.0, 800, left=3, gap=-0.9, against="a")
        assert (early.action, early.compared_with) == ("promote", ("a",))
    report(scheduler, "a", 1, 0.9, 800, left=2)
    assert report(scheduler, "e0", 1, 0.0, 800, left=2, gap=-0.9, against="a").action == "stop"


def test_a_crowded_length_does_not_take_the_places_of_another() -> None:
    scheduler = rule()
    report(scheduler, "a", 0, 0.1, 8)
    for i in range(9):
        report(scheduler, f"c{i}", 0, 0.9, 1000, gap=0.8, against="a")
    crowded = report(scheduler, "d", 0, 0.5, 1000, gap=0.4, against="a")
    far = report(scheduler, "e", 0, 0.5, 9000, gap=0.4, against="a")
    assert (crowded.action, far.action) == ("stop", "promote")


def test_a_shorter_one_goes_on_however_many_longer_ones_are_as_good() -> None:
    scheduler = rule()
    report(scheduler, "a", 0, 0.1, 8)
    for i in range(9):
        report(scheduler, f"c{i}", 0, 0.9, 1000 + i, gap=0.8, against="a")
    shorter = report(scheduler, "d", 0, 0.9, 999, gap=0.8, against="a")
    longer = report(scheduler, "e", 0, 0.9, 1100, gap=0.8, against="a")
    assert (shorter.action, longer.action) == ("promote", "stop")


@pytest.mark.filterwarnings("error")
def test_programs_of_no_bits_are_of_one_length() -> None:
    scheduler = rule()
    report(scheduler, "a", 0, 0.1, 0)
    report(scheduler, "b", 0, 0.5, 0, gap=0.4, against="a")
    assert report(scheduler, "c", 0, 0.3, 0, gap=0.2, against="a").action == "stop"


def test_the_incumbent_is_who_is_known_to_be_good_not_who_was_lucky() -> None:
    scheduler = rule()
    report(scheduler, "good", 0, 0.8, 8)
    report(scheduler, "good", 1, 0.8, 8)
    report(scheduler, "good", 2, 0.8, 8)
    report(scheduler, "lucky", 0, 0.85, 80, gap=0.05, against="good")
    # 0.85 of 18 examples is known less well than 0.8 of 162.
    assert names(scheduler, 0) == ["good"]
    report(scheduler, "lucky", 1, 0.95, 80, gap=0.15, against="good")
    assert names(scheduler, 0) == names(scheduler, 1) == ["good", "lucky"]
    assert names(scheduler, 2) == ["good"]


def test_what_is_known_now_replaces_what_was_known() -> None:
    scheduler = rule()
    report(scheduler, "a", 0, 1.0, 8)
    report(scheduler, "b", 0, 0.9, 80, gap=0.1, against="a")
    assert names(scheduler, 0) == ["a"]
    report(scheduler, "a", 1, 0.2, 8)
    assert names(scheduler, 0) == ["a", "b"]


def test_a_trained_adapter_is_an_incumbent_for_those_at_its_stage_of_training() -> None:
    scheduler = rule()
    for rung, left in ((0, 1), (1, 0), (2, 0)):
        report(scheduler, "t", rung, 0.5, 8, left=left)
    assert names(scheduler, 0, left=1) == names(scheduler, 1) == names(scheduler, 2) == ["t"]
    assert names(scheduler, 0) == []


def test_a_program_made_at_the_end_is_an_incumbent_there_only() -> None:
    scheduler = rule()
    scheduler.note_finished(Result("coarse", "m", 2, 0.7, 8))
    assert names(scheduler, 2) == ["coarse"]
    assert names(scheduler, 0) == names(scheduler, 1) == []


def run(number: int) -> tuple[BitsAware, list[float]]:
    rng, scheduler, times = random.Random(0), rule(), []
    for i in range(number):
        bits, score, left = int(2 ** rng.uniform(5, 20)), rng.random(), rng.choice([0, 1])
        began = time.perf_counter()
        against = incumbent_of(scheduler.incumbents("m", 0, left=left), bits)
        gap = None if against is None else score - rng.random()
        name = None if against is None else against.candidate
        scheduler.report(Result(f"{i:016x}", "m", 0, score, bits, gap=gap, against=name, left=left))
        times.append(time.perf_counter() - began)
    return scheduler, times


def test_a_decision_takes_less_than_a_millisecond_after_ten_thousand() -> None:
    _, times = run(10_000)
    last = statistics.median(times[-2000:])
    assert last < 1e-3, f"{last * 1e3:.2f} ms a decision"


def test_a_candidate_takes_less_than_two_kilobytes() -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    scheduler, _ = run(2000)
    grown = (tracemalloc.get_traced_memory()[0] - before) / 2000
    tracemalloc.stop()
    assert scheduler.incumbents("m", 0, left=0)
    assert grown < 2048, f"{grown:.0f} bytes a candidate"


def test_what_needs_no_model_is_an_incumbent_of_all_that_is_trained() -> None:
    scheduler = rule()
    report(scheduler, "printed", 0, 0.4, 264, model_free=True)
    report(scheduler, "printed", 1, 0.3, 264, model_free=True)
    assert [names(scheduler, rung) for rung in (0, 1, 2)] == [["printed"], ["printed"], []]
    assert names(scheduler, 0, left=2) == []
    equal = report(scheduler, "prompt", 0, 0.4, 4416, gap=0.0, against="printed")
    assert (equal.action, equal.compared_with) == ("stop", ("printed",))


def test_the_reason_says_why_there_was_nothing_to_compare_with() -> None:
    scheduler = rule()
    assert report(scheduler, "a", 0, 0.0, 3016).reason == "no incumbent is as short"
    # The first adapter: the shorter prompt has no training left, so it is not compared with it.
    early = report(scheduler, "t", 0, 0.5, 47184, left=2)
    assert early.reason == "no candidate with as much training left is as short"
    # When its scoring began there was no incumbent yet.
    late = report(scheduler, "b", 0, 0.0, 4416)
    assert late.reason == "no incumbent was as short when it was scored"


@pytest.mark.parametrize(
    ("score", "left", "later"),
    # Above the shortest program, trained, and with less than 1/eta^2 of its training: at once.
    [(0.2, 1, True), (0.1, 2, True), (0.3, 1, False), (0.2, 0, False), (0.0, 3, False)],
)
def test_an_adapter_that_has_learned_nothing_goes_on_after_all_others(
    score: float, left: int, later: bool
) -> None:
    scheduler = rule()
    # A longer prompt, and a program without the model, are no measure of that.
    for name, bits, found, free in (("p", 9000, 0.9, False), ("c", 264, 0.0, True)):
        report(scheduler, name, 0, found, bits, model_free=free)
    report(scheduler, "bare", 0, 0.2, 3016)
    decision = report(scheduler, "t", 0, score, 47184, left=left)
    assert (decision.action, decision.later) == ("promote", later)
    assert ("0.200 of the shortest program (3016 bits)" in decision.reason) is later


def test_the_shortest_program_itself_does_not_wait() -> None:
    assert not report(rule(), "t", 0, 0.0, 47184, left=1).later


def test_the_rule_alone_compares_with_the_best_that_is_not_longer() -> None:
    judge = RungJudge([100, 100], trained=True)
    assert judge.judge("short", 0, 0.6, 100).action == "promote"
    worse = judge.judge("long and worse", 0, 0.5, 200)
    assert (worse.action, worse.compared_with) == ("stop", ("short",))
    assert judge.judge("shorter and worse", 0, 0.5, 50).action == "promote"
    assert judge.judge("long and better", 0, 0.7, 200).action == "promote"
    assert judge.judge("failed", 0, math.nan, 10).action == "stop"
    # A repeated result gets the first decision.
    assert judge.judge("long and worse", 0, 0.9, 200) == worse
    assert judge.judge("short", 1, 0.6, 100).action == "finish"
    # In training, a candidate with as much training left may overtake.
    assert RungJudge([100] * 2).judge("a", 0, 0.6, 100).action == "promote"


def test_the_rule_alone_refuses_what_it_cannot_judge() -> None:
    judge = RungJudge([10, 30])
    for rung, score, message in (
        (2, 0.5, "rung: 0 to 1 are allowed, found 2"),
        (1, 0.5, "has no result at rung 0, found 1"),
        (0, 22.5, "a mean from 0 to 1 is needed, found 22.5"),
    ):
        with pytest.raises(ValueError, match=message):
            judge.judge("a", rung, score, 10)
    with pytest.raises(ValueError, match="a number of examples for each rung"):
        RungJudge([])
    with pytest.raises(ValueError, match="eta: 2 or more"):
        RungJudge([1], eta=1)
