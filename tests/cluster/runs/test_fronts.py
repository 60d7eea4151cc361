"""The front as a table: numbers are never cut, what is least needed goes first."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console
from rich.text import Text

from kilobit.cluster.driver.attempt import Outcome
from kilobit.cluster.runs import fronts, progress
from kilobit.cluster.runs.fronts import Front, RunFront, points_from, print_front
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.parts import TABLES
from kilobit.search.front.points import FrontPoint, at_last_rung, complete_points
from tests.support.cli.sealed import Make, Say, certificates
from tests.support.recorded import record
from tests.support.rows import certificate

CERTIFICATE = certificate(0.812, score=0.875, upper=0.923, num_examples=1024, num_programs=12)
POINT = FrontPoint(
    run="quickstart", task="numbers", model="posttrained", regime="posttrained",
    candidate="69d775dc49299977", family="trainable_tokens", program_bits=123456,
    payload_bits=98765, score=0.891, lower=0.871, upper=0.909, num_examples=512, split="search",
    verified=True, certified=True, program="0123456789abcdef", certificate=CERTIFICATE,
)  # fmt: skip
NUMBERS = ("123456", "98765", "0.891", "0.871 - 0.909", "0.812 - 0.923", "69d775dc49299977")


def shown(width: int, *, terminal: bool, point: FrontPoint = POINT) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width, soft_wrap=True, force_terminal=terminal)
    print_front(console, Front([point]), [0.8])
    return Text.from_ansi(text.getvalue()).plain.splitlines()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [200, 100, 80, 60, 20])
def test_no_number_is_cut(width: int, terminal: bool) -> None:
    lines = shown(width, terminal=terminal)
    (row,) = [line for line in lines if "69d775dc49299977" in line]
    needed = NUMBERS if width >= 80 or not terminal else (*NUMBERS[:3], NUMBERS[-1])
    assert all(number in row for number in needed), lines
    assert "…" not in "".join(lines)


def test_what_a_narrow_terminal_leaves_out_is_said() -> None:
    wide, narrow = shown(120, terminal=True), shown(80, terminal=True)
    assert any("trainable_tokens" in line for line in wide)
    assert not any("trainable_tokens" in line for line in narrow)
    assert "  not shown here: verified, family" in narrow
    table = narrow[1 : narrow.index("  not shown here: verified, family")]
    assert max(map(len, table)) <= 80
    # Without a terminal nobody has to fit anything.
    assert any("trainable_tokens" in line for line in shown(80, terminal=False))


def test_the_distinct_outputs_of_a_program_are_shown_where_they_were_counted() -> None:
    heads, line = shown(200, terminal=True, point=replace(POINT, num_distinct=37))[2:5:2]
    assert "distinct outputs" in heads
    assert line[heads.index("distinct outputs") :].startswith("37 ")
    assert not any("distinct" in line for line in shown(200, terminal=True))


@pytest.mark.parametrize("bits", [None, 0, 488])
def test_what_the_call_of_a_chat_template_costs_is_shown_where_there_is_one(
    bits: int | None,
) -> None:
    lines = shown(200, terminal=True, point=replace(POINT, template_bits=bits))
    heads, line = lines[2:5:2]
    assert ("template" in heads) == bool(bits)
    if bits:
        assert line[heads.index("template") :].startswith("488 ")


def test_base_models_stand_as_the_sweep_lists_them_whoever_was_first(
    write_sweep: Callable[..., Path],
) -> None:
    listed = [{"regime": regime, "path": "m"} for regime in ("random", "posttrained", "pretrained")]
    sweep = load_sweep(write_sweep(base_models=listed))
    models = [model.label for model in sweep.base_models]
    last = sweep.rungs.ladder()[-1]
    scored = {
        "rung": last.index,
        "num_examples": last.num_examples,
        "score": 0.5,
        "split": "search",
    }
    scored |= {"lower": 0.4, "upper": 0.6, "program_bits": 80, "payload_bits": 0, "program": "p"}
    rows = {
        "candidates": [{"candidate": m, "task": "numbers", "model": m} for m in reversed(models)],
        "rungs": [scored | {"candidate": model} for model in reversed(models)],
    }

    def read(table: str, columns: Sequence[str] | None = None) -> pa.Table:
        found = pa.Table.from_pylist(rows.get(table, []), schema=TABLES[table])
        return found if columns is None else found.select(columns)

    assert [point.model for point in points_from("run", read, sweep, None)] == models


def test_a_command_computes_a_front_once(
    make: Make, say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads: list[int] = []

    def counted(compute: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any) -> Any:
            reads.append(1)
            return compute(*args)

        return counting

    def reads_of(*words: Any, status: int = 0) -> int:
        reads.clear()
        say(*words, status=status)
        return len(reads)

    run, plan, battery = make(), SimpleNamespace(num_candidates=4), tmp_path / "battery.yaml"
    battery.write_text("{}")
    monkeypatch.setattr(fronts, "at_last_rung", counted(at_last_rung))
    monkeypatch.setattr(progress, "complete_points", counted(complete_points))
    monkeypatch.setattr("kilobit.cluster.fleet.measurer.Measurer.rows", lambda *_: ([], {}))
    assert reads_of("status", record(tmp_path / "recorded")) == 1
    assert reads_of("front", run.path) == 1
    assert reads_of("report", run.path) == 1
    assert reads_of("scorecard", run.path, "--battery", battery) == 1
    # The first verifies and certifies all, and shows it; the second finds it done.
    for _ in range(2):
        assert reads_of("certify", run.path) == 1
    assert reads_of("verify", run.path) == 1
    # The end of a run verifies, certifies, draws and prints.
    monkeypatch.setattr("kilobit.cluster.driver.check.check_sweep", lambda *_, **__: plan)
    monkeypatch.setattr("kilobit.cluster.driver.attempt.execute", lambda *_: Outcome())
    other = make("other", certify=True)
    assert reads_of("resume", other.path) == 1
    assert len(RunFront(other).on_front) == len(certificates(other)) == 4
