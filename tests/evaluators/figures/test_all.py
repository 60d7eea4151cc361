"""Pictures: labels of lengths, and texts that are drawn as they are."""

import pytest

from kilobit.evaluators.figures.canvas import COLOURS, DASHES, MARKERS, bits_label
from kilobit.evaluators.figures.plot_front import draw_front


@pytest.mark.parametrize(
    ("bits", "label"),
    [
        (0, "0 bit"),
        (96, "96 bit"),
        (999, "999 bit"),
        (1000, "1 kbit"),
        (1432, "1.43 kbit"),
        (999_600, "1 Mbit"),
        (3_800_000, "3.8 Mbit"),
        (2e9, "2 Gbit"),
    ],
)
def test_a_length_has_three_digits_and_a_unit(bits: float, label: str) -> None:
    assert bits_label(bits) == label


def test_curves_differ_in_more_than_colour() -> None:
    assert len(set(COLOURS)) == len(set(MARKERS)) == len(set(DASHES)) == 7


def test_formulas_and_control_characters_are_no_formulas() -> None:
    point = {"bits": 0, "score": 0.5, "lower": None, "upper": None, "certified": True}
    curves = {r"$\frac{$ _": [point], "_hidden": [point | {"bits": 4096}], "$": []}
    png = draw_front(curves, [0.5], "$\\", "length", others=curves, published={"\n$": [point]})
    assert png.startswith(b"\x89PNG")


def test_the_same_picture_gives_the_same_bytes() -> None:
    point = {"bits": 100, "score": 0.5, "lower": 0.4, "upper": 0.6, "certified_at": 0.3}
    made = [draw_front({"a": [point]}, [], "t", "length", kind="pdf") for _ in range(2)]
    assert made[0] == made[1]
    # Both may have been made in the same second.
    assert b"CreationDate" not in made[0]
