"""Verdicts in both orders, files of answers and verdicts, and how a judge's words are read."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from kilobit.evaluators.judges.answers import (
    pair_answers,
    read_answers,
    read_prompts,
    read_verdicts,
)
from kilobit.evaluators.judges.config import load_judge
from kilobit.evaluators.judges.judges import TEMPLATE, EndpointJudge, fill, read_verdict
from kilobit.evaluators.judges.preference import (
    Pair,
    Position,
    Question,
    Verdict,
    judge_pairs,
    num_questions,
    summarise,
    tell_nobody,
)
from kilobit.evaluators.tasks.jsonl import JsonlTask
from kilobit.search.streams import stream
from tests.conftest import REPOSITORY


class By:
    """A judge that follows a rule."""

    def __init__(self, rule: Callable[[Question], Position | None]) -> None:
        self.rule, self.asked = rule, 0

    def verdicts(
        self, questions: Sequence[Question], on_each: Callable[[], None] = tell_nobody
    ) -> list[Verdict]:
        self.asked += len(questions)
        positions = []
        for question in questions:
            positions.append(self.rule(question))
            on_each()
        return [Verdict(p, None if p else "no idea") for p in positions]


def longer(question: Question) -> Position:
    if len(question.first) == len(question.second):
        return "tie"
    return "first" if len(question.first) > len(question.second) else "second"


PAIRS = [Pair(str(i), f"q{i}", "a" * (i % 5 + 1), "b" * (i % 3 + 1)) for i in range(30)]


def test_a_judge_of_the_answers_is_the_same_in_both_orders() -> None:
    rows = judge_pairs(PAIRS, By(longer))
    expected = {
        pair.id: "tie"
        if len(pair.one) == len(pair.two)
        else "win"
        if len(pair.one) > len(pair.two)
        else "loss"
        for pair in PAIRS
    }
    assert {row.id: row.outcome for row in rows} == expected
    summary = summarise(rows)
    assert summary.flipped == 0
    assert summary.warning is None
    assert summary.wins + summary.ties + summary.losses == summary.judged == 30


@pytest.mark.parametrize("position", ["first", "second"])
@pytest.mark.parametrize("number", [1, 3, 30])
def test_a_judge_of_the_place_makes_ties_and_is_named(position: Position, number: int) -> None:
    summary = summarise(judge_pairs(PAIRS[:number], By(lambda _: position)))
    assert (summary.wins, summary.ties, summary.losses) == (0, number, 0)
    assert summary.flipped == 1
    assert summary.warning is not None
    assert f"{number} of {number} prompts (100 %)" in summary.warning
    assert f"shown {position} both times" in summary.warning


def test_a_judge_that_is_only_unsure_is_not_named_but_its_flips_are_counted() -> None:
    draws = stream(0, "test", "unsure")
    summary = summarise(judge_pairs(PAIRS * 10, By(lambda _: draws.choice(["first", "second"]))))
    assert summary.flipped == pytest.approx(0.5, abs=0.1)
    assert summary.warning is None


@pytest.mark.parametrize(
    ("one_first", "two_first", "outcome"),
    [
        ("first", "second", "win"),
        ("second", "first", "loss"),
        ("first", "first", "tie"),
        ("second", "second", "tie"),
        ("tie", "tie", "tie"),
        ("first", "tie", "tie"),
        ("tie", "first", "tie"),
        (None, "first", None),
        ("first", None, None),
    ],
)
def test_only_two_verdicts_that_agree_prefer_an_answer(
    one_first: Position | None, two_first: Position | None, outcome: str | None
) -> None:
    judge = By(lambda q: one_first if q.first == "x" else two_first)
    (row,) = judge_pairs([Pair("1", "q", "x", "y")], judge)
    assert row.outcome == outcome
    assert row.reason == (None if outcome else "no idea")
    assert summarise([row]).failed == (outcome is None)


def test_equal_answers_are_a_tie_and_nobody_is_asked() -> None:
    judge = By(lambda _: None)
    rows = judge_pairs([Pair("1", "q", "same", "same")], judge)
    assert rows[0].outcome == "tie"
    assert judge.asked == 0
    assert summarise(rows).flipped is None


def test_each_verdict_is_told_of() -> None:
    told: list[int] = []
    pairs = [Pair("1", "q", "same", "same"), Pair("2", "q", "a", "b"), Pair("3", "q", "a", "c")]
    judge_pairs(pairs, By(lambda _: "first"), lambda: told.append(1))
    assert len(told) == num_questions(pairs) == 4


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("A", "first"),
        (" b.\n", "second"),
        ("Tie", "tie"),
        ("They differ.\nVerdict: **B**\n\n", "second"),
        ("[[A]]", "first"),
        ("Answer B", "second"),
        ("", None),
        ("A or B", None),
        ("A better one is missing", None),
        ("B\nbut A is nice too", None),
    ],
)
def test_a_verdict_is_the_last_line_or_there_is_none(text: str, position: Position | None) -> None:
    found = read_verdict(text)
    assert found.position == position
    assert (found.reason is None) == (position is not None)


def test_what_a_program_wrote_is_no_placeholder() -> None:
    text = fill(TEMPLATE, Question("say {second}", "{second}", "{input}"))
    assert "[Request]\nsay {second}\n" in text
    assert "[Answer A]\n{second}\n" in text
    assert "[Answer B]\n{input}\n" in text


def test_settings_of_a_judge_are_checked() -> None:
    settings = {"kind": "endpoint", "url": "http://h/v1", "model": "m"}
    assert EndpointJudge.model_validate(settings).template == TEMPLATE
    for change, message in [
        ({"template": "{input} {first}"}, "`template` must contain {second} once"),
        ({"dollars_per_million_input": 1.0}, "give both prices or none"),
        ({"url": "http://user:secret@h/v1"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"key": "secret"}, "Extra inputs"),
    ]:
        with pytest.raises(ValueError, match=message.replace("{", r"\{")):
            EndpointJudge.model_validate(settings | change)


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def test_answers_are_paired_by_id_or_by_line(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {"id": 7, "input": "p", "output": "x"}, {"id": "b", "output": ""})
    two = write(tmp_path / "2", {"id": "b", "output": "z"}, {"id": "7", "output": "y"})
    prompts = write(tmp_path / "p", {"id": "b", "input": "q"}, {"id": 7, "input": "p"})
    found = pair_answers(read_answers(one), read_answers(two), read_prompts(prompts))
    assert found == [Pair("b", "q", "", "z"), Pair("7", "p", "x", "y")]
    outputs = [write(tmp_path / name, f"{name} one", f"{name} two") for name in "abp"]
    found = pair_answers(
        read_answers(outputs[0]), read_answers(outputs[1]), read_prompts(outputs[2])
    )
    assert found == [Pair("1", "p one", "a one", "b one"), Pair("2", "p two", "a two", "b two")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "line 2: a JSON object is needed, found a list"),
        ({"output": "x"}, "line 2: `id` must be a text or a whole number, found None"),
        ({"id": 1, "output": "x"}, "line 2: the id '1' is also used by .*line 1"),
        ({"id": 2, "output": 3}, "line 2: `output` must be a text, found 3"),
        ({"id": 2, "text": "x"}, r"line 2: `output` must be a text, found nothing.*'id', 'text'"),
        ({"id": 2, "output": "\ud800"}, "line 2: `output` holds half of a surrogate pair"),
    ],
)
def test_a_bad_line_of_answers_is_named(tmp_path: Path, record: object, message: str) -> None:
    path = write(tmp_path / "answers.jsonl", {"id": 1, "output": "x"}, record)
    with pytest.raises(ValueError, match=rf"answers\.jsonl, {message}"):
        read_answers(path)


def test_files_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    one = read_answers(write(tmp_path / "1", {"id": 1, "input": "p", "output": "x"}))
    other = read_answers(write(tmp_path / "2", {"id": 1, "input": "q", "output": "x"}))
    with pytest.raises(ValueError, match=r"2, line 1: the input of '1' differs from that of .*1, "):
        pair_answers(one, other, None)
    more = read_answers(write(tmp_path / "3", *({"id": i, "output": "x"} for i in (1, 2, 3))))
    for pair, which in (((one, more), "first"), ((more, one), "second")):
        with pytest.raises(ValueError, match=f"the {which} answers lack 2 of 3 prompts, .* '2'"):
            pair_answers(*pair, None)
    with pytest.raises(ValueError, match=r"the first answers lack 1 of 2 prompts, .* '2'"):
        pair_answers(one, more, {"1": "p", "2": "q"})
    with pytest.raises(ValueError, match=r"3, line 1: no file has the `input` of '1'"):
        pair_answers(more, more, None)
    with pytest.raises(ValueError, match="no lines"):
        read_answers(write(tmp_path / "empty"))
    with pytest.raises(ValueError, match="absent: No such file"):
        read_answers(tmp_path / "absent")
    (tmp_path / "bad").write_text("{\n")
    with pytest.raises(ValueError, match="bad, line 1: not JSON"):
        read_answers(tmp_path / "bad")


def test_people_may_say_win_tie_loss_or_a_b(tmp_path: Path) -> None:
    pairs = [Pair(str(i), "q", "x", "y") for i in range(6)]
    words = ["win", "tie", "loss", "A", "B"]
    path = write(tmp_path / "v", *({"id": i, "verdict": word} for i, word in enumerate(words)))
    rows = read_verdicts(path, pairs)
    assert [row.outcome for row in rows] == ["win", "tie", "loss", "win", "loss", None]
    assert rows[5].reason == f"{path} has no verdict on it"
    assert summarise(rows).flipped is None
    for record, message in [
        ({"id": 0, "verdict": "first"}, "line 1: `verdict` must be one of win, tie, loss, A, B"),
        ({"id": 0, "verdict": ["win"]}, "line 1: `verdict` must be one of"),
        ({"id": 9, "verdict": "win"}, "line 1: no prompt has the id '9'"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_verdicts(write(tmp_path / "v", record), pairs)


def test_the_examples_of_the_page_are_valid(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "preference.md").read_text("utf-8")
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    kinds = []
    for block in blocks:
        if block.startswith("task:"):
            task = yaml.safe_load(block)["task"]
            JsonlTask.model_validate_json(json.dumps(task), strict=True)
            continue
        (tmp_path / "judge.yaml").write_text(block, "utf-8")
        kinds.append(load_judge(tmp_path / "judge.yaml").kind)
    assert kinds == ["endpoint", "model", "file"]
    assert len(blocks) == 4
