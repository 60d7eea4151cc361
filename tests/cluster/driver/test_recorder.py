from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kilobit.cluster.driver.recorder import FOLD_EVERY
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import Budget, load_sweep
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt
from tests.support.driver.searches import (
    ONE,
    RECORD,
    a_recorder,
    a_run,
    a_search,
    asha,
    recorder_of,
)
from tests.support.rows import rows_of


@pytest.fixture
def run(write_sweep: Callable[..., Path], tmp_path: Path) -> RunFolder:
    return a_run(tmp_path, asha(load_sweep(write_sweep())))


def test_many_decisions_are_folded_into_few_files(run: RunFolder) -> None:
    many = [
        Candidate(task="none", model=ONE.model, prompt=Prompt(instruction=f"c{number}"))
        for number in range(2 * FOLD_EVERY + 3)
    ]
    recorder = recorder_of(run, many)
    for candidate in many:
        recorder.decide(replace(RECORD, candidate=candidate.id))
    assert len(list((run.ledger.folder / "decisions").iterdir())) == 2 + 3
    rows = sorted(rows_of(run.ledger, "decisions"), key=lambda row: row["order"])
    assert [(row["candidate"], row["order"]) for row in rows] == [
        (candidate.id, number) for number, candidate in enumerate(many)
    ]


def test_each_model_has_its_share_of_the_candidates_in_whatever_order_they_are_proposed(
    run: RunFolder,
) -> None:
    (model,) = run.sweep.base_models
    models = tuple(model.model_copy(update={"name": name}) for name in ("a", "b"))
    update = {"base_models": models, "budget": Budget(candidates=5)}
    run = replace(run, sweep=run.sweep.model_copy(update=update))
    many = [
        Candidate(task="none", model=name, prompt=Prompt(instruction=f"{number}"))
        for name, most in (("a", 9), ("b", 1))
        for number in range(most)
    ]
    search, _ = a_search(run.sweep, many, limit=5)
    recorder = a_recorder(run, load_task(run.sweep.task, Path()), search)
    assert [bool(recorder.propose("a")) for _ in range(5)] == [True] * 3 + [False] * 2
    assert recorder.propose("b") is not None
    # It has no second one, and leaves the rest of its share to the other.
    assert recorder.propose("b") is None
    assert [bool(recorder.propose("a")) for _ in range(2)] == [True, False]


def test_a_program_that_is_too_long_is_stopped_with_that_reason(run: RunFolder) -> None:
    recorder = recorder_of(run, [ONE])
    lengths = {"program_bits": 4000, "payload_bits": 80}
    decision = recorder.decide(replace(RECORD, score=None, num_examples=0, error=None, **lengths))
    assert decision.action == "stop"
    (row,) = rows_of(run.ledger, "decisions")
    assert row["reason"] == "its 4000 program bits are more than max_bits allows"
