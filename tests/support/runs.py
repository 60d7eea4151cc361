"""Runs as their ledgers tell, without a search behind them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from kilobit.cluster.runs.folder import RunFolder, create_run
from kilobit.cluster.runs.fronts import RunFront
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.search.front.points import FrontPoint
from tests.support.rows import write_rows

NUM_EXAMPLES = 4
_SEEDS = iter(range(1_000_000))


def candidate(name: str) -> dict[str, Any]:
    """Return the row of a candidate."""
    return {
        "candidate": name, "task": "numbers", "model": "tiny", "regime": "tiny", "family": "prompt",
        "spec": f"the spec of {name}", "seed": 0,
    }  # fmt: skip


def rung(name: str, score: float | None, **changes: Any) -> dict[str, Any]:
    """Return the row of a candidate at the only rung."""
    bits = 8 * len(name)
    return {
        "candidate": name, "rung": 0, "split": "search", "num_examples": NUM_EXAMPLES,
        "score": score, "lower": 0.0, "upper": 1.0, "program_bits": 1000 + bits,
        "payload_bits": bits, "program": f"files of {name}", "base_digest": "0", "seconds": 1.5,
        "worker": "tiny-0", "attempt": 1, "finished_at": datetime.now(UTC), **changes,
    }  # fmt: skip


def predictions(name: str, scores: Iterable[float], rung_number: int = 0) -> list[dict[str, Any]]:
    """Return a row for each score, whose output says it."""
    return [
        {"candidate": name, "rung": rung_number, "split": "search", "example": f"example {i}",
         "output": f"scores {score}", "score": score}
        for i, score in enumerate(scores)
    ]  # fmt: skip


def verification(name: str, *, verified: bool = True) -> dict[str, Any]:
    """Return a row that says that a candidate's files were run."""
    return {
        "program": f"files of {name}", "candidate": name, "split": "search", "num_examples": 4,
        "num_equal": 4, "score": 0.5, "verified": verified, "finished_at": datetime.now(UTC),
    }  # fmt: skip


def write_run(
    folder: Path, scores: Mapping[str, Iterable[float]], *, attempt_rows: bool = True, **sweep: Any
) -> Path:
    """Write a run in which each candidate has these scores, one an example; return its folder.

    Args:
        folder: of the run.
        scores: for each candidate.
        attempt_rows: also the decision that ended it, which no other run repeats.
        sweep: changes of the sweep.
    """
    content = {
        "name": folder.name,
        "task": {"kind": "miniature", "name": "numbers"},
        "base_models": [{"regime": "tiny", "path": "nowhere"}],
        "families": {"prompt": {"candidates": 1, "demonstrations": [0]}},
        "rungs": {"examples": NUM_EXAMPLES, "count": 1},
        "targets": [0.5],
        # No two runs of a test are the same run, however soon one follows the other.
        "seed": next(_SEEDS),
        **sweep,
    }
    file = folder.with_name(f"{folder.name}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content), "utf-8")
    with create_run(load_sweep(file), file, folder) as run:
        for name, found in scores.items():
            each = list(found)
            write_rows(run.ledger, "candidates", name, [candidate(name)])
            write_rows(run.ledger, "predictions", f"{name}-r0", predictions(name, each))
            write_rows(run.ledger, "rungs", f"{name}-r0", [rung(name, sum(each) / len(each))])
            if attempt_rows:
                end = {"candidate": name, "rung": 0, "decision": "finish", "order": 0}
                write_rows(run.ledger, "decisions", f"{name}-r0", [end])
    return folder


def proven_points(run: RunFolder) -> list[FrontPoint]:
    """Return the programs on the fronts of a run, which are all verified and certified."""
    points = RunFront(run).on_front
    assert points
    for point in points:
        assert point.verified
        assert point.certificate is not None
        assert point.certificate.lower is not None
    return points
