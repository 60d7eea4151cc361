"""Lengths of several base models side by side: what is compared, and what may be said of it."""

import io
from dataclasses import replace

from rich.console import Console

from kilobit.cluster.cli.front import print_regimes
from kilobit.search.front.complexity import Collapse, Lengths, collapses, lengths, rows_of
from kilobit.search.front.points import FrontPoint
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
    assert collapses(POINTS, models, 0.8) == [Collapse("pre", "post", 0.8, 9.0, 9000, True)]
    bare = [replace(point, certificate=None) for point in POINTS]
    assert collapses(bare, models, 0.8) == [Collapse("pre", "post", 0.8, 4.0, 4000, False)]
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
