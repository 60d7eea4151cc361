from kilobit.evaluators.figures.plot_front import draw_front


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
