from dataclasses import replace

from kilobit.evaluators.figures.plot_front import draw_front
from kilobit.evaluators.report.contents import Published
from tests.support.cli.scorecards import POINT


def test_formulas_and_control_characters_are_no_formulas() -> None:
    point = replace(POINT, program_bits=0)
    curves = {r"$\frac{$ _": [point], "_hidden": [replace(point, program_bits=4096)], "$": []}
    published = {"\n$": [Published("\n$", 0, 0.5)]}
    png = draw_front(curves, [0.5], "$\\", "length", others=curves, published=published)
    assert png.startswith(b"\x89PNG")


def test_the_same_picture_gives_the_same_bytes() -> None:
    point = replace(POINT, lower=0.8, upper=0.9, certified=None)

    def made() -> bytes:
        return draw_front({"a": [point]}, [], "t", "length", dotted=[point], kind="pdf")

    assert made() == made()
    # Both may have been made in the same second.
    assert b"CreationDate" not in made()


def test_a_point_that_is_certified_is_not_dotted() -> None:
    def made(certified: bool | None, *, dotted: bool) -> bytes:
        point = replace(POINT, certified=certified)
        return draw_front({"a": [point]}, [], "t", "length", dotted=[point] if dotted else [])

    assert made(None, dotted=True) != made(None, dotted=False)
    assert made(True, dotted=True) == made(True, dotted=False)
