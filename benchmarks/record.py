"""Record full evaluations of many candidates, for replaying schedulers and proposers in seconds.

    python benchmarks/record.py [--tasks numbers translation instructions] [--work DIR]
    python benchmarks/record.py --pack

Every candidate of benchmarks/recorded.yaml goes through every rung on the pre-trained embedded
model, whatever its score. The ledgers lie in DIR (runs/recorded), one for each task; what is there
is not computed again, so it may be interrupted. `--pack` makes benchmarks/recorded.parquet of them:
a row for each candidate and rung with the score of every example. About two hours of one core.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate
from kilobit.search.records import PredictionRecord, RungRecord, rung_part
from kilobit.search.space import draw_candidates

HERE = Path(__file__).parent
TASKS = ("numbers", "translation", "instructions")
RECORDED = HERE / "recorded.parquet"
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("model", pa.string()),
        ("candidate", pa.string()),
        ("family", pa.string()),
        ("spec", pa.string()),
        ("bound_bits", pa.int64()),
        ("rung", pa.int32()),
        ("program_bits", pa.int64()),
        ("payload_bits", pa.int64()),
        ("score", pa.float64()),
        ("train_s", pa.float64()),
        ("generate_s", pa.float64()),
        ("scores", pa.list_(pa.float32())),
    ]
)


def sweep_of(task: str) -> Sweep:
    """Return the sweep of one task."""
    return load_sweep(HERE / "recorded.yaml", [f"task.name={task}"])


def candidates_of(sweep: Sweep) -> list[Candidate]:
    """Return the candidates of a sweep in the order of their draw."""
    labels = [model.label for model in sweep.base_models]
    return draw_candidates(sweep.families, load_task(sweep.task, HERE), labels, sweep.seed)


def record(task: str, folder: Path) -> None:
    """Run all candidates of one task through all rungs."""
    sweep = sweep_of(task)
    setup = EvaluatorSetup(
        sweep=sweep.model_dump_json(),
        sweep_folder=str(HERE),
        run_folder=str(folder),
        model=sweep.base_models[0].label,
        worker=f"{task}-0",
        attempt=1,
    )
    evaluator, began, candidates = RungEvaluator(setup), time.monotonic(), candidates_of(sweep)
    for number, candidate in enumerate(candidates, start=1):
        for rung in sweep.rungs.ladder():
            result = evaluator.run_rung(candidate.canonical(), rung).record
            if result.error:
                print(f"{candidate.id} {candidate.family}: {result.error.splitlines()[-1]}")
                break
        gone = time.monotonic() - began
        print(
            f"{task} {number}/{len(candidates)} {candidate.family} {result.payload_bits} bits "
            f"{result.score} {gone:.0f} s",
            flush=True,
        )


def packed(task: str, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of one task."""
    sweep, ledger, rows = sweep_of(task), Ledger(folder / "ledger"), []
    frozen = load(sweep.base_models[0], HERE)
    for candidate in candidates_of(sweep):
        bound = 0
        if candidate.adapter is not None:
            with installed(frozen, candidate.adapter) as adapter:
                bound = 16 * sum(tensor.size for tensor in adapter.tensors())
        for rung in sweep.rungs.ladder():
            part = rung_part(candidate.id, rung.index)
            known = ledger.read_part(RungRecord, part)
            predictions = ledger.read_part(PredictionRecord, part)
            if known is None or predictions is None:
                break
            row = known[0].row()
            about = {name: row[name] for name in SCHEMA.names if name in row}
            rows.append(
                about
                | {
                    "task": task,
                    "model": candidate.model,
                    "family": candidate.family,
                    "spec": candidate.canonical(),
                    "bound_bits": bound,
                    "scores": [one.score for one in predictions],
                }
            )
    return rows


def main() -> None:
    """Record, or pack what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--work", type=Path, default=Path("runs/recorded"), metavar="DIR")
    parser.add_argument("--pack", action="store_true")
    args = parser.parse_args()
    if not args.pack:
        for task in args.tasks:
            record(task, args.work / task)
        return
    rows = [row for task in TASKS for row in packed(task, args.work / task)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, RECORDED, compression="zstd", compression_level=19)
    print(f"{len({row['candidate'] for row in rows})} candidates, {len(rows)} rows")
    print(f"{RECORDED}: {RECORDED.stat().st_size} bytes")


if __name__ == "__main__":
    main()
