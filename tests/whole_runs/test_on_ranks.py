"""A model on two ranks goes from the search to its scorecard, as a whole run does on a cluster.

The ranks are forks here; tests/cluster/fleet/test_crew.py has the same with Ray.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.fleet.measurer import Measurer, measurer_of
from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.runs.folder import RunFolder, create_run, open_run
from kilobit.cluster.runs.fronts import RunFront
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.worker import evaluator
from kilobit.evaluators.battery.config import Battery
from kilobit.search.candidate import Candidate, Prompt
from tests.support.rows import rows_of, write_rows
from tests.support.runs import proven_points
from tests.support.shards.forks import ForkedGroup, Forks

pytestmark = pytest.mark.timeout(300)
CANDIDATE = Candidate(task="numbers", model="llama", prompt=Prompt(instruction="Zahl:"))
BATTERY = Battery.model_validate(
    {
        "tasks": [{"task": {"kind": "miniature", "name": "translation"}, "examples": 2}],
        **dict.fromkeys(("perplexity", "game", "safety")),
        "harness": [],
    }
)


def searched(path: Path, folder: Path) -> RunFolder:
    """Return a run of one candidate."""
    sweep = load_sweep(path)
    with create_run(sweep, path, folder) as run:
        pass
    setup = EvaluatorSetup(
        sweep.model_dump_json(), str(path.parent), str(folder), "llama", "llama-0", 1
    )
    about = {"task": "numbers", "model": "llama", "regime": "llama", "family": "prompt"}
    row = {"candidate": CANDIDATE.id, "spec": CANDIDATE.canonical(), **about}
    write_rows(run.ledger, "candidates", "all", [row])
    worker = evaluator.RungEvaluator(setup)
    assert worker.run_rung(CANDIDATE.canonical(), sweep.rungs.ladder()[0]).record.error is None
    if isinstance(worker._group, ForkedGroup):
        worker._group.__exit__()
    return run


def programs(run: RunFolder) -> list[Any]:
    rows = rows_of(open_run(run.path).ledger, "programs")
    return sorted((row["candidate"], row["script"], row["payload"]) for row in rows)


def test_a_model_on_two_ranks_is_searched_proven_and_measured(
    write_sweep: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rungs = {"examples": 4, "train_steps": 1, "eta": 2, "count": 1}
    alone = searched(write_sweep(rungs=rungs), tmp_path / "alone")
    monkeypatch.setattr(evaluator, "ShardGroup", ForkedGroup)
    spread = {"world_size": 2, "timeout_s": 60.0}
    run = searched(write_sweep(rungs=rungs, workers={"shards": spread}), tmp_path / "run")
    assert programs(run) == programs(alone)
    assert launch.main(["certify", str(run.path), "--again"]) == 0, capsys.readouterr()
    (point,) = proven_points(open_run(run.path))
    given = (run.path, RunFront(run).points, BATTERY, tmp_path)
    shards = ShardsConfig.model_validate(spread)
    with Forks(shards, measurer_of, shards, *given) as ranks:
        found = [ranks.call("rows", "llama", subject) for subject in (None, point)]
    here = Measurer(*given)
    assert found == [here.rows("llama", subject) for subject in (None, point)]
    here.close()
