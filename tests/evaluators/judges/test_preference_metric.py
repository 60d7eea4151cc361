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
from kilobit.evaluators.statistics.intervals import mean_interval
from kilobit.evaluators.statistics.simultaneous import bounded_bounds
from kilobit.evaluators.tasks.jsonl import JsonlTask, load_jsonl
from kilobit.search.task import Bounds, Task
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


def test_an_output_that_was_not_judged_is_missing(server: Server, tmp_path: Path) -> None:
    found = task(server, tmp_path)
    metric, examples = found.metric, found.splits.search[:4]
    outputs = ["good", "odd", "poor", " odd one"]
    assert metric.scores(outputs, examples) == [1.0, None, 0.0, None]
    assert metric.per_example("odd", examples[1]) is None
    reason = metric.columns("odd ", examples[1])["no_verdict"]
    assert reason == "the judge gave no verdict, its answer ends in 'hm'"
    assert metric.columns("good", examples[0]) == {}
    # What is missing counts in no mean, and the bounds hold whatever its score would have been.
    assert metric.corpus(outputs, examples) == mean_interval([1.0, 0.0])
    (bounds,) = metric.bounds([outputs], examples, 1)
    (least,) = bounded_bounds([[1.0, 0.0, 0.0, 0.0]], 1)
    (most,) = bounded_bounds([[1.0, 1.0, 0.0, 1.0]], 1)
    assert bounds == Bounds(0.5, least.lower, most.upper)
    # It is not asked again: a verdict that came later would change what was recorded.
    num_asked = len(server.asked)
    server.rule = lambda _: completion("A")
    assert metric.scores(outputs, examples) == [1.0, None, 0.0, None]
    assert len(server.asked) == num_asked


def test_a_judge_that_is_unreadable_on_most_is_an_error(server: Server, tmp_path: Path) -> None:
    found = task(server, tmp_path)
    examples = found.splits.search[:3]
    message = (
        rf"the judge gave no verdict on 2 of 3 outputs, the first on example {examples[0].id}: "
        r"the judge gave no verdict, its answer ends in 'hm'"
    )
    with pytest.raises(UnscoredError, match=message):
        found.metric.corpus(["odd", "odd", "good"], examples)
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
