import pytest

from kilobit.evaluators.figures.canvas import COLOURS, DASHES, MARKERS, bits_label


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
