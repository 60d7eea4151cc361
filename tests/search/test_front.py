from typing import Any

from search.front import complete_points, fronts

ABOUT = {"task": "t", "family": "prompt"}


def rung(candidate: str, number: int, score: float | None, bits: int | None) -> dict[str, Any]:
    return {
        "candidate": candidate, "rung": number, "score": score, "lower": None, "upper": None,
        "program_bits": None, "payload_bits": bits, "num_examples": 9, "split": "search",
    }  # fmt: skip


def test_only_candidates_with_a_score_at_the_last_rung_are_points() -> None:
    candidates = [
        {"candidate": c, "model": m, "regime": m, **ABOUT}
        for c, m in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"))
    ]
    rungs = [
        rung("a", 0, 0.9, 8),
        rung("a", 1, 0.5, 8),
        rung("b", 1, 0.4, 16),
        rung("c", 1, 0.7, 99),
        rung("d", 1, None, None),
        rung("unknown", 1, 1.0, 0),
    ][::-1]
    points = complete_points("r", candidates, rungs, last_rung=1)
    assert [(p.candidate, p.score) for p in points] == [("a", 0.5), ("b", 0.4), ("c", 0.7)]
    assert {k: [p.candidate for p in v] for k, v in fronts(points).items()} == {
        ("t", "x"): ["a"],
        ("t", "y"): ["c"],
    }


def test_a_line_has_the_promised_fields_and_null_for_unknown() -> None:
    candidates = [{"candidate": "a", "model": "m", "regime": "random", **ABOUT}]
    (point,) = complete_points("r", candidates, [rung("a", 0, 0.5, 8)], last_rung=0)
    assert list(point.as_json()) == [
        "run", "task", "model", "regime", "candidate", "family", "program_bits", "payload_bits",
        "score", "lower", "upper", "num_examples", "split", "verified", "certified",
    ]  # fmt: skip
    assert point.as_json()["program_bits"] is None
    assert point.as_json()["verified"] is None
