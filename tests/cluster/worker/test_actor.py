import gc
import subprocess
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

from kilobit.cluster.messages import EvaluatorSetup, Notice
from kilobit.cluster.sweep.workers import SearchedModel
from kilobit.cluster.worker import actor
from tests.conftest import REPOSITORY


def test_who_asks_for_a_worker_by_name_loads_nothing_heavy() -> None:
    program = (
        "import sys, kilobit.cluster.driver.trial, kilobit.cluster.worker.actor; "
        "heavy = {'torch', 'transformers', 'kilobit.cluster.worker.evaluator'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "[]"


def test_a_worker_waits_for_its_run_to_begin(tmp_path: Path) -> None:
    waits = Thread(target=actor._wait_for_run, args=(str(tmp_path / "run"),))
    waits.start()
    waits.join(0.5)
    assert waits.is_alive()
    # Nothing is written before the run begins.
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    waits.join(30)
    assert not waits.is_alive()


def test_a_run_that_does_not_begin_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "_WAIT_S", 0.1)
    actor._wait_for_run(str(tmp_path / "run"))


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_worker_imports_what_its_model_needs_without_collections(
    quantization: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collects = []

    class Evaluator:
        def __init__(self, setup: EvaluatorSetup, crash_log: object) -> None:
            collects.append(gc.isenabled())

        def hear(self, notice: Notice) -> None:
            pass

    class Finder(MetaPathFinder, Loader):
        def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
            return spec_from_loader(name, self) if name.endswith("worker.evaluator") else None

        def exec_module(self, module: ModuleType) -> None:
            collects.append(gc.isenabled())
            module.RungEvaluator = Evaluator  # type: ignore[attr-defined]

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    for name in ("bitsandbytes", "kilobit.cluster.worker.evaluator"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(gc, "freeze", lambda: collects.append("frozen"))
    model = {"regime": "random", "path": "model", "quantization": quantization}
    sweep = SearchedModel.model_validate(model).model_dump_json()
    actor.EvaluatorActor(EvaluatorSetup(sweep, "", str(tmp_path), "random", "random-0", 1))
    assert collects == [False, "frozen", True]
    assert sys.modules.get("bitsandbytes", "free") == (None if quantization is None else "free")
