"""A metric, a task and a battery item of another package work by their names."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.battery.battery import Row
from kilobit.evaluators.battery.config import evaluators_of, load_battery
from kilobit.evaluators.metrics.metrics import ExactMatch
from kilobit.evaluators.model.adapted import bare
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.named import named
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.task import Example
from kilobit.testing import check_evaluator, check_metric, check_task
from tests.support.other_package import install
from tests.support.tasks.records import write_jsonl

RECORDS = [{"input": f"ask {i}", "target": f"{'xy'[i % 2]}{i}"} for i in range(80)]
JSONL = {"kind": "jsonl", "name": "mine", "data": "d.jsonl"}
THEIRS = {"kind": "named", "name": "mine", "settings": {"number": 40}}


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(install(tmp_path / "installed"))
    yield
    sys.modules.pop("theirs", None)


@pytest.mark.parametrize(
    "task",
    [
        {**JSONL, "metric": "first_letter"},
        {**JSONL, "metric": "theirs:FirstLetter"},
        {**THEIRS, "uses": "letters"},
        {**THEIRS, "uses": "theirs:letters"},
    ],
    ids=["metric by entry point", "metric", "task by entry point", "task"],
)
def test_a_worker_scores_by_them(
    task: dict[str, Any], tmp_path: Path, write_sweep: Callable[..., Path], capsys: Any
) -> None:
    write_jsonl(tmp_path / "d.jsonl", RECORDS)
    rungs = {"examples": 8, "train_steps": 1, "eta": 2, "count": 1}
    path = write_sweep(task=task, rungs=rungs)
    assert launch.main(["run", str(path), "--dry-run"]) == 0
    assert "scored by first_letter" in capsys.readouterr().out
    sweep = load_sweep(path)
    about = (str(path.parent), str(tmp_path / "run"), "llama", "llama-0", 1)
    worker = RungEvaluator(EvaluatorSetup(sweep.model_dump_json(), *about))
    first = load_task(sweep.task, path.parent).splits.search[0]
    # What every answer begins with is right for the half of them.
    constant = Candidate(task="mine", model="llama", constant=first.target)
    row = worker.run_rung(constant.canonical(), Rung(0, 8, 1)).record.row()
    assert row["error"] is None
    assert 0 < row["score"] < 1


@pytest.mark.parametrize("uses", ["length", "theirs:Length"])
def test_a_battery_measures_by_them(
    uses: str, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    item = {"uses": uses, "settings": {"asked": ["one", "two"]}}
    settings = {"tasks": [], "perplexity": None, "safety": None, "game": None, "harness": []}
    (tmp_path / "battery.yaml").write_text(json.dumps({**settings, "named": [item]}))
    battery, folder = load_battery(tmp_path / "battery.yaml")
    (found,) = evaluators_of(battery, folder, None)
    check_evaluator(found)
    frozen = load(BaseModelConfig(regime="r", path=model_folders["llama"]), tmp_path)
    assert [row.example for row in found.evaluate(bare(frozen))] == ["one", "two"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'nothere:x' can't be imported: ModuleNotFoundError"):
        named("kilobit.tasks", "nothere:x")
    with pytest.raises(ValueError, match=r"kilobit.tasks, of which there are: broken, letters"):
        named("kilobit.tasks", "leters")
    with pytest.raises(ValueError, match=r"the entry point 'broken' of kilobit.tasks can't be"):
        named("kilobit.tasks", "broken")


def test_the_contract_holds_for_ours_and_theirs() -> None:
    check_task(load_miniature("numbers", 0))
    check_task(named("kilobit.tasks", "letters")({"number": 40}, Path()))


class _Base(ExactMatch):
    def per_example(self, output: str, example: Example) -> float:
        return super().per_example(output, example)


class _TooMuch(_Base):
    def per_example(self, output: str, example: Example) -> float:
        return 2 * super().per_example(output, example)


class _Generous(_Base):
    def per_example(self, output: str, example: Example) -> float:
        return super().per_example(output, example) or 0.5


class _Raises(_Base):
    def per_example(self, output: str, example: Example) -> float:
        return float(output[0] == example.gold)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (_TooMuch(), "not in .0, 1."),
        (_Generous(), "an empty output has to score 0"),
        (_Raises(), "index out of range"),
    ],
)
def test_a_metric_that_breaks_the_contract_is_found(metric: Any, message: str) -> None:
    with pytest.raises((AssertionError, IndexError), match=message):
        check_metric(metric, load_miniature("numbers", 0).splits.search[:8])


class _AsksByAnswer:
    name, better = "odd", "higher"

    def evaluate(self, model: Any) -> list[Row]:
        (said,) = model.answer(["a"], 4, ())
        return [Row("odd", said[:1], 1.0)]


def test_an_evaluator_that_asks_each_model_something_else_is_found() -> None:
    with pytest.raises(AssertionError, match="asked different examples"):
        check_evaluator(_AsksByAnswer())
