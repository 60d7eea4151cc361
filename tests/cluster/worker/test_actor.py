import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

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
