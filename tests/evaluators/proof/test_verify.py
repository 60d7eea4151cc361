from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.runs.folder import RunFolder, create_run
from kilobit.cluster.runs.fronts import points_of
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.proof.verify import program_folder
from kilobit.search.candidate import Candidate, Prompt

CANDIDATES = [
    Candidate(task="numbers", model="llama"),
    Candidate(task="numbers", model="llama", prompt=Prompt(instruction="Zahl:")),
]


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
    ledger.write("candidates", "all", [{"candidate": c.id, **about} for c in CANDIDATES])
    for one, score in zip(CANDIDATES, (0.25, 0.5), strict=True):
        row = evaluator.run_rung(one.canonical(), sweep.rungs.ladder()[0])
        del row["together"]
        assert row.get("error") is None
        ledger.write("rungs", f"{one.id}-r0", [{**row, "score": score}])
    return folder


def test_the_same_files_under_two_base_models_are_two_folders(run: RunFolder) -> None:
    points = points_of(run)
    other = [replace(point, model="qwen2", candidate=f"{point.candidate}q") for point in points]
    folders = {program_folder(run.path, point) for point in [*points, *other]}
    assert len(folders) == 4
    assert {f"{p.model}-{p.candidate}" for p in [*points, *other]} == {p.name for p in folders}
