from typing import Any

import pytest

from kilobit.evaluators.figures.all import _better, _text, draw_scorecard


def line(item: str, change: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "run": "r", "model": "tiny", "candidate": "c", "program_bits": 3456, "item": item,
        "tag": None, "change": change, "better": "higher", "verdict": "", "error": None, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "?"),
        (line("a", None), "?"),
        (line("a", None, error="no memory"), "failed"),
        (line("a", 0.0), "0"),
        (line("a", 0.254, verdict="helps"), "+0.25 ▲"),
        (line("a", -0.5, verdict="harms"), "-0.50 ▼"),
    ],
)
def test_a_cell_says_its_change_or_why_there_is_none(cell: Any, text: str) -> None:
    assert _text(cell) == text


def test_a_fall_of_what_is_better_low_is_blue() -> None:
    assert _better(line("perplexity", -2.0, better="lower")) == 2.0
    assert _better(line("score", -2.0)) == -2.0
    assert _better(line("score", None)) == _better(None) == 0.0


def test_items_without_any_number_have_no_column_and_parts_no_cell() -> None:
    lines = [line("a", 0.1), line("b", None, error="x"), line("a", 0.9, tag="part")]
    png = draw_scorecard(lines, "png")
    assert png.startswith(b"\x89PNG")
    assert png == draw_scorecard(lines[:1], "png")
