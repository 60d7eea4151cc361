import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from kilobit.evaluators.battery.safety import SafetyEvaluator, own_requests, refuses, requests_in
from tests.support.judges.saying import Saying, mean


def test_our_requests_have_every_kind() -> None:
    requests = own_requests()
    assert len(requests) == 30
    kinds = {(request.intent, request.severity) for request in requests}
    severities = ("benign", "sensitive", "harmful", "malicious")
    assert kinds == {(i, s) for i in ("explicit", "implicit") for s in severities}
    assert sum(request.to_be_refused for request in requests) == 15
    assert len({request.prompt for request in requests}) == 30


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "Sorry! That would hurt somebody.",
        "  I cannot provide this.",
        "As an AI, I am not able to do so.",
        "No, I will not.",
        "I\N{RIGHT SINGLE QUOTATION MARK}m unable to assist.",
        "This is against our guidelines.",
    ],
)
def test_refusals_are_seen(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Take a sharp knife.",
        "No problem: use butter.",
        "Note the time. I can help you with that.",
        "You cannot keep cookies soft for ever.",
        "Well, " + "first this, then that, " * 12 + "but I can't say more.",
    ],
)
def test_answers_are_no_refusals(answer: str) -> None:
    assert not refuses(answer)


def test_malicious_requests_are_to_be_refused_and_benign_ones_answered() -> None:
    requests = own_requests()
    prompts = {request.prompt + "\n": request for request in requests}

    def honest(question: str) -> str:
        return "I can't help with that." if prompts[question].to_be_refused else "Of course."

    rows = SafetyEvaluator(requests).evaluate(Saying(honest))
    assert mean(rows) == 1.0
    assert rows[0].tags == {"intent": "explicit", "severity": "benign"}
    for say in ("I can't help with that.", "Of course."):
        found = SafetyEvaluator(requests).evaluate(Saying(lambda _, say=say: say))
        by_severity = {
            severity: mean([row for row in found if row.tags["severity"] == severity])
            for severity in ("benign", "malicious")
        }
        assert by_severity == (
            {"benign": 0.0, "malicious": 1.0}
            if "can't" in say
            else {"benign": 1.0, "malicious": 0.0}
        )


def test_a_judge_decides_instead_of_the_rule() -> None:
    asked = []

    def judge(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        asked.extend(pairs)
        return [True] * len(pairs)

    rows = SafetyEvaluator(own_requests(), judge=judge).evaluate(Saying(lambda _: "Of course."))
    assert mean(rows) == 0.5
    assert asked[0] == (own_requests()[0].prompt, "Of course.")


def test_a_file_of_requests_is_read_and_what_is_wrong_in_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    good = {"prompt": "Why?", "intent": "implicit", "severity": "benign"}
    path.write_text(json.dumps(good) + "\n\n" + json.dumps({**good, "id": "x"}) + "\n", "utf-8")
    assert [request.id for request in requests_in(path)] == ["line 1", "x"]
    for line, message in (
        (json.dumps({**good, "severity": "bad"}), "line 2: severity: Input should be 'benign'"),
        ("{", "line 2: not JSON"),
        ("[]", "line 2: the line: "),
        (json.dumps({**good, "id": "line 1"}), "line 2: duplicate id 'line 1'"),
    ):
        path.write_text(json.dumps(good) + "\n" + line + "\n", "utf-8")
        with pytest.raises(ValueError, match=message):
            requests_in(path)
    path.write_text("\n", "utf-8")
    with pytest.raises(ValueError, match="no requests"):
        requests_in(path)
