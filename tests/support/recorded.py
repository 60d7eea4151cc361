"""A small run, written to a ledger row by row: two base models, a front each, hostile texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from kilobit.cluster.runs.folder import RunFolder, create_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.proof.program_files import folder_name, write_folder, write_program
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.program import Program, build, text_part
from kilobit.search.programs.recipe import Recipe
from kilobit.search.records import rung_part
from tests.support.rows import write_rows

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & <b>bold</b> \u2028 $x$"
MODELS = ("pretrained", "posttrained")
BEGAN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
# Instruction, score and sealed lower bound of the programs that completed the last rung.
COMPLETED: Mapping[str, Sequence[tuple[str, float, float | None]]] = {
    "pretrained": (
        ("", 0.1, 0.05),
        ("Answer with a number.", 0.3, None),
        (HOSTILE, 0.6, 0.52),
        ("Count. " * 40, 0.55, None),
    ),
    "posttrained": (
        ("", 0.2, 0.12),
        ("Number:", 0.9, 0.83),
        ("Please think about the question and answer with a number.", 0.85, None),
    ),
}


def record(folder: Path, name: str = "recorded", *, coarser: bool = False, **changes: Any) -> Path:
    """Write a run into a new folder and return it.

    Args:
        folder: where its folder and its sweep file lie.
        name: of the run.
        coarser: with two coarser versions of a posttrained candidate, of which one failed.
        changes: of its sweep.
    """
    sweep = {
        "name": name,
        "task": {"kind": "miniature", "name": "numbers"},
        "base_models": [{"regime": label, "path": f"models/{label}"} for label in MODELS],
        "families": {"prompt": {"candidates": 9}},
        "rungs": {"examples": 4, "train_steps": 2, "eta": 2, "count": 2},
        "targets": [0.5, 0.8],
        **changes,
    }
    folder.mkdir(parents=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(sweep), "utf-8")
    run_path = folder / name
    with create_run(load_sweep(file), file, run_path) as run:
        for model in MODELS:
            _record_model(run, model)
        if coarser:
            _add_coarser(run, "posttrained", "Number:")
    return run_path


def candidate_of(model: str, instruction: str) -> Candidate:
    """Return the candidate of an instruction."""
    return Candidate(task="numbers", model=model, prompt=Prompt(instruction=instruction))


def program_of(instruction: str) -> Program:
    """Return the program of an instruction."""
    recipe = Recipe(question="Q: {input}\nA:", batch_size=4, max_new_tokens=12, stop=("\n",))
    section = f"{instruction}\n".encode() if instruction else b""
    if section:
        recipe = recipe.model_copy(update={"prompt": text_part("stored", section)})
    return build(recipe, section)


def _record_model(run: RunFolder, model: str) -> None:
    digest = f"{len(model):016x}"
    write_rows(
        run.ledger,
        "workers",
        f"{model}-0",
        [
            {
                "worker": f"{model}-0",
                "model": model,
                "base_digest": digest,
                "num_parameters": 1000,
                "host": "node <1>",
                "versions": json.dumps({"torch": "2.0"}),
                "started_at": BEGAN,
            }
        ],
    )
    at = BEGAN
    for instruction, score, sealed in COMPLETED[model]:
        candidate, program = candidate_of(model, instruction), program_of(instruction)
        _propose(run, candidate)
        for rung in run.sweep.rungs.ladder():
            at += timedelta(seconds=10)
            part = rung_part(candidate.id, rung.index)
            write_program(run.ledger, part, candidate.id, rung.index, program)
            row = _rung(candidate, rung.index, rung.num_examples, at) | {
                "score": score,
                "lower": max(0.0, score - 0.1),
                "upper": min(1.0, score + 0.1),
                "program_bits": program.program_bits,
                "payload_bits": program.payload_bits,
                "program": program.digest,
                "base_digest": digest,
            }
            write_rows(run.ledger, "rungs", part, [row])
            last = rung.index + 1 == run.sweep.rungs.count
            _decide(run, candidate, rung.index, "finish" if last else "promote", "it went well")
        if sealed is not None:
            _prove(run, candidate, program, sealed)
    _stopped(run, model, at)


def _add_coarser(run: RunFolder, model: str, instruction: str) -> None:
    """Record two coarser versions of a completed candidate: one was scored, one failed."""
    parent, last = candidate_of(model, instruction), run.sweep.rungs.ladder()[-1]
    program = program_of(instruction)
    for number, changes in enumerate(({"score": 0.4}, {"error": "ValueError: too coarse"})):
        own = candidate_of(model, f"{instruction} coarser {number}")
        _propose(run, own, parent=parent.id, operator="coarsen")
        row = _rung(own, last.index, last.num_examples, BEGAN) | {
            "program_bits": program.program_bits,
            "payload_bits": program.payload_bits,
            "program": program.digest,
        }
        write_rows(run.ledger, "rungs", rung_part(own.id, last), [row | changes])


def _propose(run: RunFolder, candidate: Candidate, **changes: Any) -> None:
    row = {
        "candidate": candidate.id,
        "task": candidate.task,
        "model": candidate.model,
        "regime": candidate.model,
        "family": candidate.family,
        "spec": candidate.canonical(),
        "operator": "random",
        **changes,
    }
    write_rows(run.ledger, "candidates", candidate.id, [row])


def _rung(candidate: Candidate, rung: int, num_examples: int, at: datetime) -> dict[str, Any]:
    return {
        "candidate": candidate.id,
        "rung": rung,
        "split": "search",
        "num_examples": num_examples,
        "num_generated": num_examples,
        "attempt": 1,
        "worker": f"{candidate.model}-0",
        "seconds": 1.0,
        "finished_at": at,
    }


def _decide(run: RunFolder, candidate: Candidate, rung: int, action: str, reason: str) -> None:
    row = {"candidate": candidate.id, "rung": rung, "decision": action, "reason": reason}
    write_rows(run.ledger, "decisions", f"{candidate.id}-r{rung}", [row])


def _prove(run: RunFolder, candidate: Candidate, program: Program, lower: float) -> None:
    both = {"program": program.digest, "candidate": candidate.id, "finished_at": BEGAN}
    verified_on = json.dumps({"device": "cpu", "dtype": "float32"})
    write_rows(
        run.ledger,
        "verifications",
        candidate.id,
        [{**both, "verified": True, "verified_on": verified_on}],
    )
    bounds = {"score": lower + 0.05, "lower": lower, "upper": lower + 0.1, "level": 0.95}
    sealed = {"split": "sealed", "num_examples": 64, "num_programs": 4, "repeated": False}
    write_rows(run.ledger, "certificates", candidate.id, [{**both, **bounds, **sealed}])
    name = folder_name(candidate.model, candidate.id)
    write_folder(run.path / "programs" / name, program, {"model": candidate.model})


def _stopped(run: RunFolder, model: str, at: datetime) -> None:
    """Record candidates that did not complete: two for a reason with numbers, one that failed."""
    for number, reason in enumerate(("rank 3 of 7 by score", "rank 5 of 9 by score")):
        candidate = candidate_of(model, f"stopped {number}")
        _propose(run, candidate)
        row = _rung(candidate, 0, 4, at) | {"score": 0.0, "program_bits": 4000, "payload_bits": 64}
        write_rows(run.ledger, "rungs", f"{candidate.id}-r0", [row])
        _decide(run, candidate, 0, "stop", reason)
    candidate = candidate_of(model, "failed")
    _propose(run, candidate)
    error = f"Traceback:\n  somewhere\nValueError: {HOSTILE}"
    write_rows(
        run.ledger, "rungs", f"{candidate.id}-r0", [_rung(candidate, 0, 4, at) | {"error": error}]
    )
    _decide(run, candidate, 0, "stop", "it has no score")


def write_scorecard(run: Path) -> None:
    """Write a scorecard of the front's programs beside a run, one cell of it without numbers."""
    from kilobit.cluster.cli.scorecard import encoded
    from kilobit.evaluators.battery.battery import SideEffect
    from kilobit.search.front.points import FrontPoint

    lines = []
    for model in MODELS:
        for instruction, score, _ in COMPLETED[model][:2]:
            candidate, program = candidate_of(model, instruction), program_of(instruction)
            point = FrontPoint(
                run=run.name, task="numbers", model=model, regime=model, candidate=candidate.id,
                family="prompt", program=program.digest, program_bits=program.program_bits,
                payload_bits=program.payload_bits, score=score, lower=None, upper=None,
                num_examples=8, split="search", verified=True, certified=None,
            )  # fmt: skip
            about = SideEffect(
                point, item="translation", num_examples=8, base=0.1, value=0.4, change=0.3,
                lower=0.1, upper=0.5, p=0.01, verdict="helps",
            )  # fmt: skip
            nothing = {"base": None, "value": None, "change": None, "verdict": None, "p": None}
            lines += [about, replace(about, item="safety", error=HOSTILE, **nothing)]
    (run / "scorecard.parquet").write_bytes(encoded(lines))


def many(folder: Path, num_candidates: int, num_rungs: int) -> Path:
    """Write a run with so many candidates, each with a row at every rung, as snapshots."""
    import numpy as np

    from kilobit.evaluators.ledger.fencing import Accepted, snapshot_file
    from kilobit.evaluators.ledger.ledger import Ledger
    from kilobit.evaluators.ledger.parts import SCHEMA_VERSION, TABLES

    run = record(
        folder, "many", rungs={"examples": 4, "train_steps": 2, "eta": 2, "count": num_rungs}
    )
    rng = np.random.default_rng(0)
    ids = np.array([f"{n * 2654435761 % (1 << 32):08x}{n:08x}" for n in range(num_candidates)])
    of_rung = np.repeat(np.arange(num_rungs), num_candidates)
    size = len(of_rung)
    bits = 8 * rng.integers(400, 20_000, num_candidates)
    score = np.clip(0.1 * np.log2(bits / 3000) + rng.normal(0, 0.2, num_candidates), 0, 1)
    model = np.array(MODELS)[rng.integers(0, len(MODELS), num_candidates)]
    spec = json.dumps(
        {"prompt": {"instruction": "Think. " * 20}, "adapter": {"method": "lora", "rank": 2}}
    )
    parts = np.tile(ids, num_rungs).astype(object) + "-r" + of_rung.astype(str).astype(object)
    at = np.datetime64(BEGAN.replace(tzinfo=None), "us") + np.arange(size) * np.timedelta64(
        20, "ms"
    )
    tables: dict[str, dict[str, Any]] = {
        "candidates": {
            "candidate": ids, "task": np.repeat("numbers", num_candidates), "model": model,
            "regime": model, "family": np.repeat("lora", num_candidates),
            "spec": np.repeat(spec, num_candidates), "part": ids,
        },
        "rungs": {
            "candidate": np.tile(ids, num_rungs), "rung": of_rung.astype(np.int32),
            "split": np.repeat("search", size), "num_examples": 4 * 2**of_rung,
            "num_generated": 4 * 2**of_rung, "score": np.tile(score, num_rungs),
            "lower": np.tile(score, num_rungs) - 0.1, "upper": np.tile(score, num_rungs) + 0.1,
            "program_bits": np.tile(bits, num_rungs), "payload_bits": np.tile(bits, num_rungs) // 2,
            "program": np.tile(ids, num_rungs), "seconds": np.ones(size), "part": parts,
            "attempt": np.ones(size, np.int32), "finished_at": at, "worker": np.repeat("w-0", size),
        },
        "decisions": {
            "candidate": np.tile(ids, num_rungs), "rung": of_rung.astype(np.int32),
            "decision": np.where(of_rung == num_rungs - 1, "finish", "promote"),
            "reason": np.repeat("rank 3 of 7 by score", size), "part": parts,
        },
    }  # fmt: skip
    for table, columns in tables.items():
        schema = pa.schema([*TABLES[table], ("part", pa.string())])
        content = pa.table(
            {
                field.name: pa.array(columns[field.name], field.type)
                if field.name in columns
                else pa.nulls(len(columns["candidate"]), field.type)
                for field in schema
            },
            schema=schema,
        ).replace_schema_metadata({"kilobit_schema": SCHEMA_VERSION})
        pq.write_table(content, run / "ledger" / table / snapshot_file(1, 1), compression="zstd")
    for place in _on_front(bits, score, model):
        write_program(Ledger(run / "ledger", 1), f"{ids[place]}-r{num_rungs - 1}", ids[place],
                      num_rungs - 1, program_of("Think."))  # fmt: skip
    accepted = Accepted(1, 1, {table: [snapshot_file(1, 1)] for table in tables})
    (run / "ledger" / "accepted").mkdir(exist_ok=True)
    (run / "ledger" / accepted.path).write_bytes(accepted.content())
    return run


def _on_front(bits: Any, score: Any, model: Any) -> list[int]:
    """Return the places of all that may be on a front: nothing shorter of its model is better."""
    import numpy as np

    best, found = dict.fromkeys(MODELS, -1.0), []
    for place in np.lexsort((-score, bits)):
        if score[place] > best[model[place]]:
            best[model[place]] = score[place]
            found.append(int(place))
    return found
