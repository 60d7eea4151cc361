from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kilobit.cluster.driver.recorder import FOLD_EVERY, Recorder
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt
from tests.support.driver.searches import a_recorder, a_run, a_search, asha

ONE = Candidate(task="none", model="llama")


ROW = {"candidate": ONE.id, "rung": 0, "score": 0.5, "payload_bits": 8, "program_bits": 900}


@pytest.fixture
def run(write_sweep: Callable[..., Path], tmp_path: Path) -> RunFolder:
    return a_run(tmp_path, asha(load_sweep(write_sweep())))


def recorder_of(run: RunFolder, candidates: Sequence[Candidate] = (ONE,)) -> Recorder:
    task = load_task(run.sweep.task, Path())
    search, _ = a_search(run.sweep, candidates)
    recorder = a_recorder(run, task, search)
    for candidate in candidates:
        recorder.propose(candidate.model)
    return recorder


def test_many_decisions_are_folded_into_few_files(run: RunFolder) -> None:
    many = [
        Candidate(task="none", model=ONE.model, prompt=Prompt(instruction=f"c{number}"))
        for number in range(2 * FOLD_EVERY + 3)
    ]
    recorder = recorder_of(run, many)
    for candidate in many:
        recorder.decide({**ROW, "candidate": candidate.id})
    assert len(list((run.ledger.folder / "decisions").iterdir())) == 2 + 3
    rows = sorted(run.ledger.rows("decisions"), key=lambda row: row["order"])
    assert [(row["candidate"], row["order"]) for row in rows] == [
        (candidate.id, number) for number, candidate in enumerate(many)
    ]
