"""What programs change elsewhere: measured on the resident model, compared, written, shown."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from rich.text import Text

from kilobit import launch
from kilobit.cluster.cli import scorecard
from kilobit.cluster.cli.scorecard import print_card
from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.runs.folder import RunFolder, create_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.battery.battery import compare, judge_lines
from kilobit.evaluators.judges.model_judges import judge_of
from kilobit.evaluators.model.adapted import AdaptedModel, bare
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.records import RungRecord
from tests.support.cli.scorecards import POINT, rows
from tests.support.rows import write_rows


@pytest.fixture(scope="module")
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="small", path=model_folders["llama"]), Path())


def test_harm_is_red_and_has_a_sign() -> None:
    (down,) = compare(POINT, "higher", rows([0.0, 0.5] * 6), rows([1.0] * 12))
    lines = judge_lines([down])
    text = io.StringIO()
    print_card(Console(file=text, force_terminal=True, soft_wrap=True), lines, {"mmlu": "not here"})
    assert "\x1b[31m-0.75 (-0.92 -0.58) ▼\x1b[0m" in text.getvalue()
    assert "not available: mmlu: not here" in text.getvalue()
    plain = Text.from_ansi(text.getvalue()).plain
    assert "a (m, 4000 bits) helps nothing here and harms x -0.75" in plain
    text = io.StringIO()
    print_card(Console(file=text, force_terminal=True, soft_wrap=True), [down], {})
    assert "\x1b[31m" not in text.getvalue()


def test_a_judge_compares_yes_and_no(frozen: FrozenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, seen = judge_of(bare(frozen)), []
    (alone,) = judge([("How?", "No.")])
    assert judge([("How?", "No."), ("What?", "I can't " * 9)])[0] is alone

    def judged(self: AdaptedModel, rows: Any) -> list[tuple[float, bool]]:
        seen.extend(frozen.tokenizer.decode([*ids, *new]) for ids, new in rows)
        return [(-1.0, True), (-2.0, True), (-3.0, True), (-2.5, True)]

    monkeypatch.setattr(AdaptedModel, "judged", judged)
    assert judge([("Why {answer}?", "No."), ("How?", "So.")]) == [True, False]
    assert "asked an assistant:\nWhy {answer}?\n\nThe assistant replied:\nNo.\n" in seen[0]
    assert seen[0].endswith("yes")
    assert seen[1].endswith("no")


CANDIDATES = [
    Candidate(task="numbers", model="llama"),
    Candidate(task="numbers", model="llama", prompt=Prompt(instruction="Zahl:")),
]
TWIN = {"task": {"kind": "miniature", "name": "translation", "seed": 1}}
SMALL: dict[str, Any] = {
    "tasks": [{"task": {"kind": "miniature", "name": "translation"}, "examples": 4}],
    "perplexity": {"file": "held_out.txt"},
    "game": None,
    "safety": {"max_new_tokens": 4},
    "harness": [],
}


@pytest.fixture
def run(write_sweep: Callable[..., Path], tmp_path: Path) -> RunFolder:
    """Return a finished run of two programs; the longer one is made to score better."""
    path = write_sweep(rungs={"examples": 8, "train_steps": 1, "eta": 2, "count": 1})
    sweep = load_sweep(path)
    with create_run(sweep, path, tmp_path / "run") as folder:
        pass
    setup = EvaluatorSetup(
        sweep.model_dump_json(), str(tmp_path), str(folder.path), "llama", "llama-0", 1
    )
    evaluator, ledger = RungEvaluator(setup), folder.ledger
    about = {"task": "numbers", "model": "llama", "regime": "llama", "family": "prompt"}
    written = [{"candidate": c.id, "spec": c.canonical(), **about} for c in CANDIDATES]
    write_rows(ledger, "candidates", "all", written)
    for one, score in zip(CANDIDATES, (0.25, 0.5), strict=True):
        record = evaluator.run_rung(one.canonical(), sweep.rungs.ladder()[0]).record
        ledger.write(RungRecord, record.part, [replace(record, score=score)])
    return folder


def test_the_command_writes_what_it_prints(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    battery = tmp_path / "battery.yaml"
    (tmp_path / "held_out.txt").write_text("Two apples.\n\nThree pears.\n", "utf-8")
    here = {"task": "no_such_task", "include": ".", "optional": True}
    battery.write_text(yaml.safe_dump({**SMALL, "harness": [here]}), "utf-8")
    words = ["scorecard", str(run.path), "--battery", str(battery)]
    assert launch.main([*words, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert pq.read_table(run.path / scorecard.FILE).to_pylist() == lines
    assert {line["candidate"] for line in lines} == {one.id for one in CANDIDATES}
    whole = [line for line in lines if line["tag"] is None]
    items = ["translation", "text bits/byte", "safety", "no_such_task"]
    assert {line["item"] for line in whole} == set(items)
    assert all(
        "not a task of the harness" in line["error"] for line in lines if line["item"] == items[3]
    )
    bare_lines = [line for line in whole if line["candidate"] == CANDIDATES[0].id]
    # A program of no text and no adapter changes nothing.
    assert [line["change"] for line in bare_lines] == [0.0, 0.0, 0.0, None]
    (text,) = [
        line
        for line in whole
        if line["item"] == "text bits/byte" and line["candidate"] == CANDIDATES[1].id
    ]
    assert text["num_examples"] == 2
    assert text["change"] == pytest.approx(text["value"] - text["base"]) != 0
    assert launch.main(words) == 0
    shown = capsys.readouterr().out
    assert "not available: no_such_task" in shown
    assert "safety, bare: intent=explicit" in shown
    assert not list(run.path.glob(".*.tmp"))


def test_a_measurement_that_is_missing_fails_unless_it_is_optional(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    battery = tmp_path / "battery.yaml"
    words = ["scorecard", str(run.path), "--battery", str(battery)]
    less = {**SMALL, "tasks": [], "perplexity": None}
    for optional, status in ((False, 1), (True, 0)):
        item = {"task": "no_such_task", "include": ".", "optional": optional}
        battery.write_text(yaml.safe_dump({**less, "harness": [item]}), "utf-8")
        assert launch.main(words) == status
        assert "not available: no_such_task" in capsys.readouterr().out


def test_what_can_not_be_measured_is_said_and_nothing_is_written(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    battery = tmp_path / "battery.yaml"
    words = ["scorecard", str(run.path), "--battery", str(battery)]
    for change, message in (
        ({"tassk": []}, "line 1: unknown key 'tassk'. Did you mean 'tasks'?"),
        ({"tasks": [*SMALL["tasks"], TWIN]}, "two items with the name 'translation'"),
        ({**SMALL, "perplexity": {"file": "none.txt"}}, "none.txt: No such file"),
        (
            {**SMALL, "perplexity": None, "safety": {"judge": {"regime": "j", "path": "no"}}},
            "base model j: there is no folder",
        ),
    ):
        battery.write_text(yaml.safe_dump(change), "utf-8")
        assert launch.main(words) == 2
        assert message in capsys.readouterr().err
    assert not (run.path / scorecard.FILE).exists()
    assert launch.main(["scorecard", str(tmp_path)]) == 2


def test_a_program_that_does_not_fit_is_a_failure_of_its_own(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    battery = tmp_path / "battery.yaml"
    safety = {"max_new_tokens": 250}
    battery.write_text(yaml.safe_dump({**SMALL, "perplexity": None, "safety": safety}), "utf-8")
    assert launch.main(["scorecard", str(run.path), "--battery", str(battery), "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = [line for line in lines if line["error"]]
    assert failed
    assert {line["item"] for line in failed} == {"safety"}
    assert all("context of 256" in line["error"] for line in failed)
