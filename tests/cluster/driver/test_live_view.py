import io
from dataclasses import replace

import pytest
from rich.console import Console

from kilobit.cluster.driver.live_view import (
    LiveProgress,
    LiveView,
    clock_text,
    decade,
    decade_label,
)
from kilobit.search.records import DecisionRecord, RungRecord
from kilobit.search.schedulers.scheduler import Decision


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(
    candidate: str, rung: int, score: float | None, bits: int | None, num_examples: int = 10
) -> RungRecord:
    return RungRecord(
        candidate=candidate,
        rung=rung,
        score=score,
        payload_bits=bits,
        num_examples=num_examples,
        num_generated=10,
        error=None if score is not None else "Traceback\nValueError: no",
    )


def test_the_course_counts_and_estimates() -> None:
    clock = Clock()
    course = LiveProgress(4, 2, clock)
    assert course.left_s() is None
    clock.now += 10
    course.add("m", record("a", 0, 0.5, 80), Decision("a", 0, "promote", ""))
    course.add("m", record("a", 1, 0.4, 80), Decision("a", 1, "finish", ""))
    course.add("m", record("b", 0, None, None), Decision("b", 0, "stop", ""))
    assert course.left_s() == 10.0
    assert course.line() == (
        "2/4 candidates, rung 0: 2 rung 1: 1, 1 failed, 2 examples/s, 0:10 elapsed, 0:10 left"
    )


def test_the_line_tells_generation_and_rewards() -> None:
    course = LiveProgress(4, 2, Clock())
    rewarded = replace(
        record("a", 0, 0.5, 80), train_steps=9, rewards=(0.1, 0.25), best_reward=0.375
    )
    course.add("m", rewarded, Decision("a", 0, "promote", ""))
    told = " generation 9: mean reward 0.25, best 0.38, "
    assert told in course.line()
    course.add("m", record("b", 0, 0.4, 80), Decision("b", 0, "stop", ""))
    assert told in course.line()


def test_more_examples_weigh_more_than_a_higher_score() -> None:
    course = LiveProgress(4, 2, Clock())
    many = record("a", 1, 0.4, 80, num_examples=30)
    course.add("m", many, Decision("a", 1, "finish", ""))
    course.add("m", record("b", 0, 0.9, 90), Decision("b", 0, "stop", ""))
    assert course.best == {"m": {2: (0.4, 30)}}


def test_without_a_terminal_there_are_plain_lines_now_and_then() -> None:
    clock, text = Clock(), io.StringIO()
    course = LiveProgress(1, 1, clock)
    with LiveView(course, Console(file=text)) as view:
        for _ in range(25):
            clock.now += 1
            view.update()
        course.add("m", record("a", 0, 0.5, 80), Decision("a", 0, "finish", ""))
    assert len(text.getvalue().splitlines()) == 3
    assert "\x1b" not in text.getvalue()


def test_the_time_that_is_left_ends_with_the_budget() -> None:
    clock = Clock()
    course = LiveProgress(10, 1, clock, budget_s=60)
    clock.now += 20
    assert course.left_s() == 40
    course.add("m", record("a", 0, 0.5, 80), Decision("a", 0, "finish", ""))
    # Nine more would take 180 s.
    assert course.left_s() == 40
    for name in "bcdefghi":
        course.add("m", record(name, 0, 0.5, 80), Decision(name, 0, "finish", ""))
    assert course.left_s() == pytest.approx(20 / 9)
    clock.now += 50
    assert course.left_s() == 0


def test_the_last_line_is_said_once() -> None:
    clock, text = Clock(), io.StringIO()
    course = LiveProgress(1, 1, clock)
    with LiveView(course, Console(file=text)) as view:
        clock.now += 11
        course.add("m", record("a", 0, 0.5, 80), Decision("a", 0, "finish", ""))
        view.update()
        clock.now += 1
    assert text.getvalue().count("1/1 candidates") == 1


def test_what_earlier_attempts_finished_is_counted_but_says_nothing_of_the_speed() -> None:
    clock = Clock()
    course = LiveProgress(4, 2, clock)
    course.take_earlier(
        [
            record("a", 0, 0.5, 80),
            record("a", 1, 0.5, 80),
            # A coarser version: nobody decides on it.
            record("a1", 1, 0.5, 80),
            record("b", 0, None, None),
        ],
        [
            DecisionRecord(candidate="a", rung=0, decision="promote"),
            DecisionRecord(candidate="a", rung=1, decision="finish"),
            DecisionRecord(candidate="b", rung=0, decision="stop"),
            # Its rung was damaged and is done again.
            DecisionRecord(candidate="c", rung=0, decision="stop"),
        ],
    )
    assert course.line() == (
        "2/4 candidates, rung 0: 2 rung 1: 1, 1 failed, 0 examples/s, 0:00 elapsed, ? left"
    )
    clock.now += 10
    course.add("m", record("c", 0, 0.5, 80), Decision("c", 0, "stop", ""))
    assert course.left_s() == 10.0
    assert course.line().startswith("3/4 candidates, rung 0: 3 rung 1: 1, 1 failed")


def test_a_terminal_shows_the_table() -> None:
    clock, text = Clock(), io.StringIO()
    course = LiveProgress(1, 1, clock)
    course.add("pretrained", record("a", 0, 0.25, 500), Decision("a", 0, "finish", ""))
    with LiveView(course, Console(file=text, force_terminal=True, width=100)) as view:
        clock.now += 1
        view.update()
    assert "pretrained" in text.getvalue()
    assert "0.25 (10)" in text.getvalue()
    assert "< 1 kbit" in text.getvalue()
    assert "1/1 candidates" in text.getvalue()


def test_labels() -> None:
    assert [decade(bits) for bits in (0, 8, 99, 100, 12345)] == [0, 1, 2, 3, 5]
    assert [decade_label(n) for n in (0, 3, 6)] == ["0 bit", "< 1 kbit", "< 1 Mbit"]
    assert [clock_text(s) for s in (0, 61.4, 3723)] == ["0:00", "1:01", "1:02:03"]
