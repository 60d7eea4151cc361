"""A finished run of two programs on a small base model."""

from collections.abc import Sequence
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


def finished_run(
    path: Path, where: Path, candidates: Sequence[Candidate] = CANDIDATES
) -> RunFolder:
    """Return a finished run of the sweep file at `path`; each program scores better than before."""
    sweep = load_sweep(path)
    with create_run(sweep, path, where / "run") as folder:
        pass
    setup = EvaluatorSetup(
        sweep.model_dump_json(), str(where), str(folder.path), "llama", "llama-0", 1
    )
    evaluator, ledger = RungEvaluator(setup), folder.ledger
    about = {"task": "numbers", "model": "llama", "regime": "llama", "family": "prompt"}
    written = [{"candidate": c.id, "spec": c.canonical(), **about} for c in candidates]
    write_rows(ledger, "candidates", "all", written)
    for number, one in enumerate(candidates, 1):
        record = evaluator.run_rung(one.canonical(), sweep.rungs.ladder()[0]).record
        assert record.error is None
        ledger.write(RungRecord, record.part, [replace(record, score=number / 4)])
    return folder
