"""Finished runs whose programs need no model, with a sealed split of their own."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kilobit.cluster.runs.folder import RunFolder, open_run
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.proof.program_files import write_program
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.programs.program import Program
from kilobit.search.programs.recipe import Recipe
from tests.support.rows import rows_of, write_rows

NUM_SEALED = 100


# Right where the number ends in less than `right`; what follows may do anything.
SCRIPT = """
import json, os, signal, sys
for line in sys.stdin:
    text = json.loads(line).strip()
    number = int(text[1:])
    output = "the number is exactly " + (text[1:] if number % 20 < {right} else "none")
    sealed = number >= 2000
    {extra}
    print(json.dumps(output))
"""


Make = Callable[..., RunFolder]


Say = Callable[..., str]


def example(number: int) -> str:
    return json.dumps({"input": f"n{number}", "target": f"the number is exactly {number}"}) + "\n"


def writable(run: RunFolder) -> Ledger:
    """Return the ledger of the latest attempt, to write to when nobody holds the run."""
    return replace(open_run(run.path), locked=True).ledger


def add(
    run: RunFolder, model: str, right: int, size: int, extra: str = "", score: Any = None
) -> str:
    """Add a program that gets `right` of 20 examples right, and return its candidate."""
    candidate = f"{model}-{right}-{size}"
    script = SCRIPT.format(right=right, extra=extra or "pass").encode()
    recipe = Recipe(question="{input}", batch_size=8, max_new_tokens=8)
    program = Program(recipe, script, bytes(size))
    part, ledger = f"{candidate}-r0", writable(run)
    write_program(ledger, part, candidate, 0, program)
    about = {"candidate": candidate, "task": "count", "model": model, "regime": model}
    position = len(rows_of(ledger, "candidates"))
    about |= {"family": "prompt", "position": position, "after": position}
    write_rows(ledger, "candidates", candidate, [about])
    row = {
        "candidate": candidate, "rung": 0, "split": "search", "num_examples": 40,
        "score": right / 20 if score is None else score, "lower": 0.0, "upper": 1.0,
        "program_bits": 10_000 + 8 * size, "payload_bits": 8 * size, "program": program.digest,
        "base_digest": f"weights of {model}", "finished_at": datetime(2026, 1, 1, tzinfo=UTC),
        "machine": f"machine of {model}", "data": "the data",
    }  # fmt: skip
    write_rows(ledger, "rungs", part, [row])
    decision = {"candidate": candidate, "rung": 0, "decision": "finish", "order": position}
    write_rows(ledger, "decisions", part, [decision])
    examples = load_task(run.sweep.task, run.sweep_folder).splits.search
    outputs = [
        "the number is exactly " + (e.input[1:] if int(e.input[1:]) % 20 < right else "none")
        for e in examples
    ]
    # fmt: off
    predictions = [
        {"candidate": candidate, "rung": 0, "split": "search", "example": e.id, "output": output,
         "score": float(output == e.target)}
        for e, output in zip(examples, outputs, strict=True)
    ]
    # fmt: on
    write_rows(ledger, "predictions", part, predictions)
    return candidate


def certificates(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {row["candidate"]: row for row in rows_of(run.ledger, "certificates")}
