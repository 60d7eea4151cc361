import json
from pathlib import Path

import pytest

from kilobit.evaluators.judges.answers import (
    pair_answers,
    read_answers,
    read_prompts,
    read_verdicts,
)
from kilobit.evaluators.judges.preference import (
    Pair,
    summarise,
)


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
        ({"id": 2, "output": "\ud800"}, "line 2: field .output. holds half of a surrogate pair"),
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
