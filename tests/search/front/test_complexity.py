"""Lengths of several base models side by side: what is compared, and what may be said of it."""

import io
from dataclasses import replace

from rich.console import Console

from kilobit.cluster.cli.front import print_regimes
from kilobit.search.front.complexity import (
    AdapterSize,
    Collapse,
    Lengths,
    collapses,
    lengths,
    results,
    rows_of,
)
from kilobit.search.front.points import FrontPoint
from kilobit.search.settings import Ruler
from tests.support.rows import certificate

POINT = FrontPoint(
    run="r", task="t", model="pre", regime="pre", candidate="a", family="prompt",
    program_bits=4000, payload_bits=500, score=0.85, lower=None, upper=None, num_examples=9,
    split="search", verified=True, certified=None, program="p",
)  # fmt: skip


POINTS = [
    POINT,
    replace(POINT, candidate="b", program_bits=9000, certificate=certificate(0.81)),
    replace(POINT, model="post", candidate="c", program_bits=1000, certificate=certificate(0.82)),
    replace(POINT, model="post", candidate="d", program_bits=500, score=0.3),
    replace(POINT, model="random", candidate="e", program_bits=20000, score=0.15),
]


def test_lengths_are_of_the_shortest_that_was_found_and_certified() -> None:
    assert lengths(POINTS, "pre", 0.8) == Lengths(4000, 9000)
    assert lengths(POINTS, "post", 0.3) == Lengths(500, 1000)
    assert lengths(POINTS, "random", 0.8) == Lengths(None, None)
    rows = dict(rows_of(POINTS, ["random", "post"], [0.95, 0.8]))
    assert sorted(rows) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95]
    assert rows[0.1] == [Lengths(20000, None), Lengths(500, 1000)]
    assert rows[0.95] == [Lengths(None, None)] * 2


def test_certified_lengths_are_compared_where_both_have_one() -> None:
    models = ["random", "pre", "post"]
    by_each: dict[Ruler, float] = {"program": 9.0, "payload": 1.0}
    assert collapses(POINTS, models, 0.8) == [
        Collapse("pre", "post", 0.8, 9.0, 9000, True, by_each)
    ]
    bare = [replace(point, certificate=None) for point in POINTS]
    by_each = {"program": 4.0, "payload": 1.0}
    assert collapses(bare, models, 0.8) == [Collapse("pre", "post", 0.8, 4.0, 4000, False, by_each)]
    assert [one.factor for one in collapses(bare, models, 0.1)] == [5.0, 40.0, 8.0]
    assert collapses([replace(bare[0], program_bits=0), bare[2]], models, 0.8)[0].factor == 1e-3


def test_the_table_says_what_the_factor_does_not_prove() -> None:
    text = io.StringIO()
    console = Console(file=text, width=60, soft_wrap=True)
    print_regimes(console, POINTS, ["random", "pre", "post"], [0.8])
    shown = text.getvalue()
    assert "t: shortest program in program bits (of these certified)" in shown
    assert "≥ 0.8 target   not reached   4000 (9000)   1000 (1000)" in shown
    assert "factor of 9.00 (certified); post holds at most 9000 bits" in shown
    assert "It proves nothing" in shown
    text.truncate(0)
    # Whoever needs more has not collapsed, and nothing is said of certificates that nobody has.
    bare = [replace(point, certificate=None) for point in POINTS]
    print_regimes(console, bare, ["post", "pre"], [0.8])
    assert "post to pre: pre needs 4.00 times as many bits (found, not" in text.getvalue()
    assert "t: shortest program in program bits\n" in text.getvalue()
    text.truncate(0)
    print_regimes(console, POINTS[:2], ["pre"], [0.8])
    assert not text.getvalue().strip("\0")


def test_each_length_has_a_factor_of_its_own_shortest_programs() -> None:
    points = [
        replace(POINT, program_bits=4000, payload_bits=600, net_bits=1000),
        replace(POINT, candidate="b", program_bits=5000, payload_bits=100, net_bits=2000),
        replace(POINT, model="post", program_bits=3200, payload_bits=50, net_bits=200),
    ]
    (one,) = collapses(points, ["pre", "post"], 0.8)
    assert one.factors == {"program": 1.25, "payload": 2.0, "net": 5.0}
    net = [point for p in points if (point := p.by("net")) is not None]
    (one,) = collapses(net, ["pre", "post"], 0.8)
    assert (one.factor, one.information) == (5.0, 1000)
    # Shorter than the bare question: no bits, and no information.
    (one,) = collapses([replace(net[0], net_bits=-80), net[2]], ["pre", "post"], 0.8)
    assert (one.factor, one.information) == (1 / 200, 0)
    # Net bits and other bits compare with nothing.
    assert collapses([points[0], net[2]], ["pre", "post"], 0.8) == []


def test_the_table_of_results_counts_each_way_by_its_rule() -> None:
    bare = replace(POINT, candidate="q", program_bits=3000, payload_bits=0, net_bits=0, score=0.1)
    lora = replace(POINT, family="lora", program_bits=9000, net_bits=6000, score=0.9)
    points = [
        replace(bare, candidate="bare"),
        replace(POINT, candidate="short", program_bits=3500, net_bits=500, verified=None),
        replace(POINT, candidate="next", program_bits=3600, net_bits=600),
        replace(POINT, candidate="proven", program_bits=8000, net_bits=5000,
                certificate=certificate(0.81)),
        replace(lora, candidate="one", verified=None),
        replace(lora, candidate="low", score=0.4),
        replace(lora, candidate="two", score=0.85),
        replace(POINT, model="zero", candidate="z", program_bits=70000, score=0.85, verified=None),
    ]  # fmt: skip
    sizes = {("r", "one"): AdapterSize(1, 100, 900), ("r", "low"): AdapterSize(1, 10, 90),
             ("r", "two"): AdapterSize(2, 50, 700)}  # fmt: skip
    rows = results(points, [0.8, 0.85, 0.95], sizes, {"pre": 1000}, {"zero"}, {"pre": (9, 0.1)})
    first, second, third, *others = rows
    assert [(row.model, row.target) for row in rows[:3]] == [("pre", 0.8), ("pre", 0.85),
                                                             ("pre", 0.95)]  # fmt: skip
    # The certified one, although shorter ones are only verified; else the shortest verified one.
    assert (first.proof, first.point) == ("certified", points[3])
    assert (second.proof, second.point) == ("verified", points[2])
    assert (third.proof, third.point, third.reached) == (None, None, False)
    assert first.baselines == {"lora": 1600, "peft": 5600, "full": 16000, "random": 70000}
    assert third.baselines == {"lora": None, "peft": None, "full": 16000, "random": None}
    assert first.factors == {"lora": 0.2, "peft": 0.7, "full": 2.0, "random": 8.75}
    assert set(third.factors.values()) == {None}
    assert (first.bare_score, first.bare_num_examples) == (0.1, 9)
    assert first.as_json()["num_bytes"] == 1000
    # The random model is no baseline of itself; a program that was not run is not verified.
    assert others[0].model == "zero"
    assert others[0].baselines == dict.fromkeys(first.baselines)
    assert (others[0].reached, others[0].point, others[0].bare_score) == (True, None, None)
