from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kilobit.cluster.driver.recorder import FOLD_EVERY
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.search.candidate import Candidate, Prompt
from tests.support.driver.searches import ONE, RECORD, a_run, asha, recorder_of
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
