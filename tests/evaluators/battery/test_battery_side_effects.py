from dataclasses import replace

import pytest

from kilobit.evaluators.battery.battery import compare, judge_lines, trades
from tests.support.cli.scorecards import POINT, rows


def test_lines_compare_the_same_examples_and_their_parts() -> None:
    tags = [{"kind": "odd" if i % 2 else "even"} for i in range(10)]
    base, found = rows([1.0] * 10, tags=tags), rows([0.0, 1.0] * 5, tags=tags)
    whole, *parts = compare(POINT, "higher", found[::-1], base)
    assert (whole.item, whole.tag, whole.base, whole.value) == ("x", None, 1.0, 0.5)
    assert {part.tag: part.change for part in parts} == {"kind=even": -1.0, "kind=odd": 0.0}
    assert all(part.p is None for part in parts)
    with pytest.raises(ValueError, match="different examples"):
        compare(POINT, "higher", found[1:], base)


def test_a_line_names_the_score_of_its_point_its_own() -> None:
    (line, *_) = compare(POINT, "higher", rows([0.0] * 12), rows([1.0] * 12))
    assert list(line.as_json()) == [
        "run", "task", "model", "regime", "candidate", "family", "program", "program_bits",
        "payload_bits", "net_bits", "own_score", "verified", "certified", "item", "tag", "better",
        "num_examples", "base", "value", "change", "lower", "upper", "p", "verdict", "error",
    ]  # fmt: skip
    assert (line.as_json()["own_score"], line.as_json()["value"]) == (0.85, 0.0)


def test_verdicts_know_which_way_is_better_and_how_much_was_compared() -> None:
    (down,) = compare(POINT, "higher", rows([0.0] * 12), rows([1.0] * 12))
    (up,) = compare(POINT, "lower", rows([1.0] * 12, "y"), rows([2.0] * 12, "y"))
    (few,) = compare(POINT, "higher", rows([0.0] * 6), rows([1.0] * 6))
    same = replace(few, p=0.9)
    judged = judge_lines([down, up])
    assert [line.verdict for line in judged] == ["harms", "helps"]
    assert [line.verdict for line in judge_lines([few])] == ["harms"]
    assert [line.verdict for line in judge_lines([few, same])] == [None, None]
    line, helps, harms = trades(judged)[0]
    assert (line.point.candidate, [line.item for line in helps], [line.item for line in harms]) == (
        "a",
        ["y"],
        ["x"],
    )
