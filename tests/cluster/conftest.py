"""Runs to certify: what the tests of the command and of the sealed split share."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import kilobit.cluster.cli.proofs
from kilobit import launch
from kilobit.cluster.runs.folder import RunFolder, create_run, open_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.proof.sandbox import Sandbox
from kilobit.search.base_model import BaseModelConfig
from tests.support.cli.sealed import NUM_SEALED, Make, Say, add, example


@pytest.fixture
def sealed_file(tmp_path: Path) -> Path:
    for name, start, size in (("train", 0, 4), ("search", 1000, 40), ("sealed", 2000, NUM_SEALED)):
        lines = [example(number) for number in range(start, start + size)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path / "sealed.jsonl"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every folder hold a base model: the programs here ask none."""

    def load(config: BaseModelConfig, _: Path) -> Any:
        digest = f"weights of {config.label}"
        known = (None, digest)
        return SimpleNamespace(machine=digest, parts={}, was_recorded_as=lambda one: one in known)

    monkeypatch.setattr("kilobit.evaluators.model.base_model.load", load)
    # They need no libraries either, whose import takes seconds.
    monkeypatch.setattr("kilobit.evaluators.proof.sandbox._modules", lambda *_: [])


@pytest.fixture
def make(tmp_path: Path, sealed_file: Path, models: None) -> Make:
    """Return a function that makes a finished run of two base models and four programs."""

    def made(name: str = "run", *, metric: str = "exact_match", **changes: Any) -> RunFolder:
        files = {split: f"{split}.jsonl" for split in ("train", "search", "sealed")}
        sweep: dict[str, Any] = {
            "name": name,
            "task": {"kind": "jsonl", "name": "count", "files": files, "metric": metric},
            "base_models": [{"regime": label, "path": "."} for label in ("raw", "tuned")],
            "families": {"prompt": {"candidates": 4}},
            "rungs": {"examples": 40, "count": 1},
            "targets": [0.5, 0.7],
            **changes,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(sweep))
        with create_run(load_sweep(path), path, tmp_path / "runs" / name) as run:
            for model, right, size in (
                ("raw", 4, 0),
                ("raw", 16, 90),
                ("tuned", 8, 0),
                ("tuned", 17, 20),
            ):
                add(run, model, right, size)
        return open_run(run.path)

    return made


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Return a function that runs a command and returns what it printed."""

    def said(*argv: Any, status: int = 0) -> str:
        found = launch.main([*map(str, argv)])
        printed = capsys.readouterr()
        assert found == status, printed
        return printed.err if status == 2 else printed.out

    return said


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the payload sizes of the programs that are run on sealed examples."""
    sizes: list[str] = []
    real = Sandbox.run

    def run(sandbox: Sandbox, script: bytes, payload: bytes, *rest: Any, **more: Any) -> list[str]:
        if len(rest[1]) >= NUM_SEALED:
            sizes.append(str(len(payload)))
        return real(sandbox, script, payload, *rest, **more)

    monkeypatch.setattr(Sandbox, "run", run)
    monkeypatch.setattr(kilobit.cluster.cli.proofs, "at_once", lambda *_: 1)
    return sizes
