from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from kilobit.search.candidate import Rung
from kilobit.search.front.points import (
    FrontPoint,
    bare_bits,
    bare_scores,
    complete_points,
    fronts,
)
from kilobit.search.records import (
    CandidateRecord,
    CertificateRecord,
    RungRecord,
    VerificationRecord,
)
from kilobit.search.settings import Ruler
from tests.support.rows import certificate


def rung(candidate: str, number: int, score: float | None, bits: int | None) -> RungRecord:
    return RungRecord(
        candidate=candidate, rung=number, score=score, num_examples=9, split="search",
        program_bits=None if bits is None else 1000 + bits, payload_bits=bits,
        program=f"program of {candidate}",
    )  # fmt: skip


def about(**models: str) -> list[CandidateRecord]:
    return [
        CandidateRecord(candidate=name, task="t", model=model, regime=model, family="prompt")
        for name, model in models.items()
    ]


def verification(candidate: str, verified: bool) -> VerificationRecord:
    return VerificationRecord(
        candidate=candidate, program=f"program of {candidate}", num_examples=9,
        num_equal=9 if verified else 0, verified=verified,
    )  # fmt: skip


def test_only_candidates_with_a_score_at_the_last_rung_are_points() -> None:
    rungs = [
        rung("a", 0, 0.9, 8),
        rung("a", 1, 0.5, 8),
        rung("b", 1, 0.4, 16),
        rung("c", 1, 0.7, 99),
        rung("d", 1, None, None),
        rung("unknown", 1, 1.0, 0),
    ][::-1]
    points = complete_points(
        "r", about(a="x", b="x", c="y", d="y"), rungs, [], Rung(1, 9, 1), "program"
    )
    assert [(p.candidate, p.score) for p in points] == [("a", 0.5), ("b", 0.4), ("c", 0.7)]
    assert {k: [p.candidate for p in v] for k, v in fronts(points).items()} == {
        ("t", "x"): ["a"],
        ("t", "y"): ["c"],
    }


def test_who_lost_its_race_at_the_last_rung_is_no_point() -> None:
    rungs = [rung("a", 0, 0.9, 8), replace(rung("b", 0, 1.0, 4), num_examples=6)]
    points = complete_points("r", about(a="x", b="x"), rungs, [], Rung(0, 9, 1), "program")
    assert [p.candidate for p in points] == ["a"]


def test_a_program_that_was_not_verified_leaves_and_the_next_comes_up() -> None:
    rungs = [rung("a", 0, 0.5, 8), rung("b", 0, 0.4, 16), rung("c", 0, 0.3, 4)]

    def front(*verifications: VerificationRecord) -> list[tuple[str, bool | None]]:
        names = about(a="x", b="x", c="x")
        points = complete_points("r", names, rungs, verifications, Rung(0, 9, 1), "program")
        (found,) = fronts(points).values()
        return [(p.candidate, p.verified) for p in found]

    assert front() == [("c", None), ("a", None)]
    assert front(verification("a", True)) == [("c", None), ("a", True)]
    assert front(verification("a", False)) == [("c", None), ("b", None)]
    assert front(verification("other", False)) == [("c", None), ("a", None)]


def test_the_same_files_under_two_models_are_verified_one_by_one() -> None:
    rungs = [replace(rung(c, 0, 0.5, 8), program="same files") for c in ("a", "b")]
    failed = replace(verification("b", False), program="same files")
    points = complete_points("r", about(a="x", b="y"), rungs, [failed], Rung(0, 9, 1), "program")
    assert [(p.candidate, p.verified) for p in points] == [("a", None)]


@pytest.mark.parametrize(
    ("score", "lower", "certified"),
    [
        (0.85, 0.8, True),
        (0.85, 0.79, False),
        (0.75, 0.6, True),
        (0.75, 0.49, False),
        (0.85, None, False),
        (0.4, 0.45, None),
        (0.4, 0.6, None),
    ],
)
def test_a_program_is_certified_if_its_lower_bound_reaches_the_largest_target_it_claims(
    score: float, lower: float | None, certified: bool | None
) -> None:
    def point(*certificates: CertificateRecord) -> FrontPoint:
        rungs = [rung("a", 0, score, 8)]
        args = ("r", about(a="m"), rungs, [], Rung(0, 9, 1), "program", certificates, [0.5, 0.8])
        return complete_points(*args)[0]

    assert point().certified is None
    assert point(certificate(lower)).certified is certified
    other = certificate(1.0, program="other files")
    of_b = certificate(1.0, candidate="b", program="program of b")
    assert point(other, of_b).certificate is None
    # The last one counts.
    later = certificate(lower, finished_at=datetime(2026, 1, 2, tzinfo=UTC), repeated=True)
    found = point(later, certificate(1.0))
    assert found.certificate == later
    assert found.as_json()["certificate"] == {
        "score": 0.9, "lower": lower, "upper": 1.0, "num_examples": 9, "level": 0.95,
        "num_programs": 3, "repeated": True,
    }  # fmt: skip


def test_the_length_that_is_asked_for_decides_the_front() -> None:
    long_script = replace(rung("a", 0, 0.4, 8), program_bits=5000)
    rungs = [long_script, rung("b", 0, 0.4, 80)]

    def shortest(length: Ruler) -> tuple[str, int]:
        points = complete_points("r", about(a="x", b="x"), rungs, [], Rung(0, 9, 1), length)
        ((point,),) = fronts(points).values()
        return point.candidate, point.bits

    assert shortest("payload") == ("a", 8)
    assert shortest("program") == ("b", 1080)


def test_a_line_has_the_promised_fields_and_null_for_unknown() -> None:
    (point,) = complete_points(
        "r", about(a="m"), [rung("a", 0, 0.5, 8)], [], Rung(0, 9, 1), "program"
    )
    assert list(point.as_json()) == [
        "run", "task", "model", "regime", "candidate", "family", "program_bits", "payload_bits",
        "score", "lower", "upper", "num_examples", "split", "verified", "certified", "program",
        "length", "certificate", "imported", "num_distinct", "template_bits", "net_bits",
    ]  # fmt: skip
    assert point.as_json()["program_bits"] == 1008
    unknown = ("verified", "num_distinct", "template_bits")
    assert [point.as_json()[name] for name in unknown] == [None, None, None]
    counted = replace(rung("a", 0, 0.5, 8), num_distinct=3, template_bits=488)
    (point,) = complete_points("r", about(a="m"), [counted], [], Rung(0, 9, 1), "program")
    assert (point.as_json()["num_distinct"], point.as_json()["template_bits"]) == (3, 488)


def test_the_bare_question_adds_nothing_to_its_model() -> None:
    specs = {
        "a": ("x", "prompt", '{"task":"t","model":"x"}', 3064, 0),
        "b": ("x", "prompt", '{"task":"t","model":"x","chat":true}', 3000, 0),
        "c": ("x", "prompt", '{"task":"t","model":"x","postprocess":["last_word"]}', 2000, 0),
        "d": ("x", "prompt", '{"task":"t","model":"x","max_new_tokens":9}', 2000, 0),
        "e": ("x", "copy", '{"task":"t","model":"x","copies_input":true}', 400, 0),
        "f": ("y", "prompt", '{"task":"t","model":"y"}', 9000, 8),
        "g": ("y", "prompt", "no JSON", 100, 0),
        "h": ("y", "prompt", None, 100, 0),
        "i": ("z", "prompt", '{"task":"t","model":"z"}', 5000, 0),
        "j": ("z", "prompt", '{"task":"t","model":"z"}', None, 0),
    }
    candidates = pa.Table.from_pylist(
        [{"candidate": name, "task": "t", "model": model, "family": family, "spec": spec}
         for name, (model, family, spec, _, _) in specs.items()]
    )  # fmt: skip
    rungs = pa.Table.from_pylist(
        [{"candidate": name, "program_bits": bits, "payload_bits": payload}
         for name, (*_, bits, payload) in specs.items()]
        + [{"candidate": "i", "program_bits": 4992, "payload_bits": 0}]
    )  # fmt: skip
    assert bare_bits(candidates, rungs) == {("t", "x"): 3000, ("t", "z"): 4992}
    assert bare_bits(candidates.slice(0, 0), rungs.slice(0, 0)) == {}


def test_net_bits_count_from_the_bare_question_or_are_unknown() -> None:
    rungs = [rung("a", 0, 0.5, 80), rung("b", 0, 0.4, 8), rung("c", 0, 0.3, 8)]
    short = replace(rung("d", 0, 0.1, 0), program_bits=400)
    args = ("r", about(a="x", b="x", c="y", d="x"), [*rungs, short], [], Rung(0, 9, 1))
    points = complete_points(*args, "net", bare={("t", "x"): 1000})
    assert [(p.candidate, p.net_bits, p.bits, p.length) for p in points] == [
        ("a", 80, 80, "net"), ("b", 8, 8, "net"), ("c", None, 1008, "program"),
        ("d", -600, -600, "net"),
    ]  # fmt: skip
    # The order of the programs is the same by both lengths.
    (by_net, *_), (by_program, *_) = (
        list(fronts(found).values()) for found in (points, complete_points(*args, "program"))
    )
    assert [p.candidate for p in by_net] == [p.candidate for p in by_program] == ["d", "b", "a"]
    assert points[2].by("net") is None
    assert points[0].by("payload") == replace(points[0], length="payload")


def test_the_bare_question_has_the_score_of_its_last_rung() -> None:
    specs = {"a": '{"task":"t","model":"x"}', "b": '{"task":"t","model":"x","chat":true}',
             "c": '{"task":"t","model":"x","postprocess":["last_word"]}'}  # fmt: skip
    candidates = pa.Table.from_pylist(
        [{"candidate": name, "task": "t", "model": "x", "family": "prompt", "spec": spec}
         for name, spec in specs.items()]
    )  # fmt: skip
    scored = [("a", 6, 0.9), ("a", 18, 0.2), ("b", 18, 0.3), ("c", 54, 0.8), ("b", 54, None)]
    rungs = pa.Table.from_pylist(
        [{"candidate": name, "num_examples": number, "score": score, "payload_bits": 0}
         for name, number, score in scored]
    )  # fmt: skip
    assert bare_scores(candidates, rungs) == {("t", "x"): (18, 0.3)}
