"""A finished run of two programs on a small base model."""

from dataclasses import replace
from pathlib import Path

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.runs.folder import RunFolder, create_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.records import RungRecord
from tests.support.rows import write_rows

CANDIDATES = [
    Candidate(task="numbers", model="llama"),
    Candidate(task="numbers", model="llama", prompt=Prompt(instruction="Zahl:")),
]
# One rung of eight examples.
RUNGS = {"examples": 8, "train_steps": 1, "eta": 2, "count": 1}


def finished_run(path: Path, where: Path) -> RunFolder:
    """Return a finished run of the sweep file at `path`; the longer program scores better."""
    sweep = load_sweep(path)
    with create_run(sweep, path, where / "run") as folder:
        pass
    setup = EvaluatorSetup(
        sweep.model_dump_json(), str(where), str(folder.path), "llama", "llama-0", 1
    )
    evaluator, ledger = RungEvaluator(setup), folder.ledger
    about = {"task": "numbers", "model": "llama", "regime": "llama", "family": "prompt"}
    write_rows(ledger, "candidates", "all", [{"candidate": c.id, **about} for c in CANDIDATES])
    for one, score in zip(CANDIDATES, (0.25, 0.5), strict=True):
        record = evaluator.run_rung(one.canonical(), sweep.rungs.ladder()[0]).record
        assert record.error is None
        ledger.write(RungRecord, record.part, [replace(record, score=score)])
    return folder
