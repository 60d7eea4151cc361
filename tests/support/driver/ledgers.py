"""The content of a ledger without what differs between equal searches."""

from pathlib import Path

from kilobit.evaluators.ledger.ledger import Ledger
from tests.support.rows import rows_of

TABLES = ("candidates", "rungs", "predictions", "decisions", "programs")
# What a killed attempt had generated comes from the cache and is not counted again.
GENERATED = {"num_generated", "input_tokens", "output_tokens"}
TIMES = {"finished_at", "decided_at", "seconds", "train_s", "generate_s", "code_s"}
DIFFER = TIMES | {"attempt"} | GENERATED
LORA = {
    "candidates": 2,
    "rank": [1],
    "target_modules": [["q_proj"]],
    "steps": [4],
    "batch_size": 2,
}


def content(out: Path) -> dict[str, list[str]]:
    """Return all rows of a ledger but for what differs between two runs of the same search."""
    ledger = Ledger(out / "ledger")
    return {
        table: sorted(
            repr([(key, value) for key, value in row.items() if key not in DIFFER])
            for row in rows_of(ledger, table)
        )
        for table in TABLES
    }
