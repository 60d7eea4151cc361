"""Models that do not fit at once are searched one after the other, as if all were there.

pytest -m slow tests/cluster/driver/test_attempt_turns.py
"""

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.fleet.session import ray_session
from kilobit.evaluators.ledger.ledger import Ledger
from tests.support.driver.ledgers import DIFFER, TABLES
from tests.support.rows import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
# The turn decides in which order models are proposed and decided, and on which batch it was.
ORDER = {"worker", "order", "after", "position", "pack", "compared_with"}


def content(out: Path, model_of: dict[str, str]) -> dict[str, list[str]]:
    """Return the rows of a ledger by table and model, but for what times and turns decide."""
    found: dict[str, list[str]] = {}
    for table in TABLES:
        for row in rows_of(Ledger(out / "ledger"), table):
            key = f"{table} {model_of[row['candidate']]}"
            kept = [(name, value) for name, value in row.items() if name not in DIFFER | ORDER]
            found.setdefault(key, []).append(repr(kept))
    return {key: sorted(rows) for key, rows in found.items()}


@pytest.fixture
def session() -> Iterator[None]:
    with ray_session():
        yield


def test_models_in_turns_are_searched_as_if_all_were_there(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    session: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = [{"regime": name, "path": str(model_folders["llama"])} for name in ("a", "b", "c")]
    path = write_sweep(
        base_models=models,
        budget={"candidates": 14},
        families={"prompt": {"candidates": 6, "demonstrations": [0, 1, 2]}},
    )
    found: dict[str, Any] = {}
    # More than half of the cores: one worker at a time.
    whole = 0.6 * (os.cpu_count() or 1)
    for name, cpus in (("together", 0.2), ("turns", whole)):
        out = tmp_path / name
        assert launch.main(["run", str(path), f"workers.cpus={cpus}", "--out", str(out)]) == 0
        rows = rows_of(Ledger(out / "ledger"), "candidates")
        found[name] = content(out, {row["candidate"]: row["model"] for row in rows})
        said = capsys.readouterr().out
        assert ("workers are pending" in said) == (name == "turns")
    assert found["turns"] == found["together"]
    loads = rows_of(Ledger(tmp_path / "turns" / "ledger"), "workers")
    assert sorted(row["model"] for row in loads) == ["a", "b", "c"]
    # The second begins when the first has ended.
    rungs = rows_of(Ledger(tmp_path / "turns" / "ledger"), "rungs")
    times = {m: [r["finished_at"] for r in rungs if r["worker"].startswith(f"{m}-")] for m in "abc"}
    spans = sorted((min(of), max(of)) for of in times.values())
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
