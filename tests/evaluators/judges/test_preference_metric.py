"""A judge's preference for an output over the target, as the score of a task."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kilobit.evaluators.judges.endpoint import EndpointError
from kilobit.evaluators.metrics.metrics import UnscoredError
from kilobit.evaluators.tasks.jsonl import JsonlTask, load_jsonl
from kilobit.search.task import Task
from tests.support.judges.judge_server import Server, completion


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Server()
    # Prefers the answer that says `good` or the one that does not say `poor`, wherever it is
    # shown; `odd` leaves it speechless.
    one.rule = verdict
    yield one
    one.stop()


def verdict(body: Any) -> tuple[int, bytes, dict[str, str]]:
    asked = body["messages"][0]["content"]
    first, second = asked.split("[Answer A]")[1].split("[Answer B]")
    if "odd" in first + second:
        return completion("hm")
    worth = [("good" in text) - ("poor" in text) for text in (first, second)]
    return completion("tie" if worth[0] == worth[1] else "AB"[worth[1] > worth[0]])


def task(server: Server, folder: Path, **judge: Any) -> Task:
    lines = [json.dumps({"input": f"q{i}", "target": "fair"}) for i in range(40)]
    (folder / "d.jsonl").write_text("\n".join(lines))
    config = {
        "kind": "jsonl",
        "name": "t",
        "data": "d.jsonl",
        "metric": "preference",
        "judge": {"kind": "endpoint", "url": server.url, "model": "m", "retries": 0} | judge,
    }
    return load_jsonl(JsonlTask.model_validate_json(json.dumps(config)), folder)


def test_an_output_wins_ties_or_loses_against_the_target(server: Server, tmp_path: Path) -> None:
    found = task(server, tmp_path)
    examples = found.splits.search[:5]
    outputs = ["good", "other", " fair\n", "  ", "poor"]
    # Two equal texts are a tie and no text is a loss, unasked.
    assert found.metric.scores(outputs, examples) == [1.0, 0.5, 0.5, 0.0, 0.0]
    assert len(server.asked) == 6
    result = found.metric.corpus(outputs, examples)
    assert result.score == pytest.approx(0.4)
    assert result.lower is not None
    assert found.metric.per_example("good", examples[0]) == 1.0
    (bounds,) = found.metric.bounds([outputs], examples, 1)
    assert bounds.lower <= 0.4 <= bounds.upper
    # All of that again came from the cache, which lies beside the sweep file.
    assert len(server.asked) == 6
    assert (tmp_path / "judge-cache").is_dir()


def test_an_output_that_was_not_judged_has_no_score(server: Server, tmp_path: Path) -> None:
    found = task(server, tmp_path)
    examples = found.splits.search[:2]
    with pytest.raises(UnscoredError, match=rf"example {examples[1].id} was not judged: .* 'hm'"):
        found.metric.scores(["good", "odd"], examples)
    server.rule = None
    server.always = (500, b"", {})
    with pytest.raises(EndpointError, match="in a row"):
        found.metric.scores([f"new {i}" for i in range(6)], found.splits.search[:6])


def test_a_task_with_a_judge_travels(server: Server, tmp_path: Path) -> None:
    found = pickle.loads(pickle.dumps(task(server, tmp_path)))
    assert found.metric.scores(["good"], found.splits.search[:1]) == [1.0]


def test_a_task_says_what_its_judge_lacks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ValueError, match="JUDGE_KEY of the key is not set"):
        task(server, tmp_path, key_variable="JUDGE_KEY")
    with pytest.raises(ValidationError, match="needs a `cache`"):
        task(server, tmp_path, cache=None)
    about = {"kind": "jsonl", "name": "t", "data": "d.jsonl"}
    judge = {"kind": "endpoint", "url": server.url, "model": "m"}
    for change in ({"metric": "preference"}, {"metric": "contains", "judge": judge}):
        with pytest.raises(ValidationError, match="`metric: preference` needs a `judge`"):
            JsonlTask.model_validate_json(json.dumps(about | change))
