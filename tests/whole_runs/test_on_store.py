"""A run whose folder lies on an object store: killed and gone on with, and refused in plain words.

The short form runs in this process and without Ray. Whole runs under SIGKILL, on a store that
fails, loses answers and cuts uploads, by

    pytest -m slow tests/whole_runs/test_on_store.py
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.runs.folder import create_run, reopen_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.ledger.stored_path import StoredPath
from tests.conftest import REPOSITORY
from tests.support.driver.in_process import search
from tests.support.driver.ledgers import LORA, content
from tests.support.object_store import Proxy
from tests.support.rows import rows_of

Write = Callable[..., Path]
Store = Proxy


class DeadError(BaseException):
    """This process is taken for dead: nothing that it does reaches the store."""


def test_a_search_that_dies_and_goes_on_has_the_ledger_of_one_on_a_disk(
    write_sweep: Write,
    tmp_path: Path,
    store: Store,
    folder: StoredPath,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_sweep(
        families={"prompt": {"candidates": 2}, "lora": {**LORA, "candidates": 1}},
        rate_search={"keep": [1.0]},
    )
    sweep = load_sweep(path)
    with create_run(sweep, path, tmp_path / "quiet") as run:
        search(run)
    ask, deaths = StoredPath._ask, [0]

    def die_at(pattern: str) -> None:
        def dying(self: StoredPath, *call: Any, **how: Any) -> Any:
            dead = deaths[0] % 2
            # Signs of life come from a thread, at any time.
            if not dead and self.suffix != ".alive" and re.search(pattern, self.key):
                deaths[0] += 1
                dead = 1
            if dead:
                raise DeadError
            return ask(self, *call, **how)

        monkeypatch.setattr(StoredPath, "_ask", dying)

    store.fail_every, store.cut_every = 11, 7
    opened: Any = create_run(sweep, path, folder)
    for pattern in ("/rungs/[^/]*-r0.a", "/decisions/.*-r1.a", "accepted.a3", "/programs/", "^$"):
        die_at(pattern)
        try:
            with opened as run:
                search(run)
        except DeadError:
            # The store is there again for the next process.
            deaths[0] += 1
        opened = reopen_run(folder, take_over=True)
    assert deaths[0] >= 6
    assert content(folder) == content(tmp_path / "quiet")
    orders = [row["order"] for row in rows_of(Ledger(folder / "ledger"), "decisions")]
    assert sorted(orders) == list(range(len(orders)))
    assert (store.done["failed"] > 0, store.done["cut"] > 0) == (True, True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_on_a_store_under_sigkill_has_the_ledger_of_one_on_a_disk(
    write_sweep: Write, tmp_path: Path, store: Store, folder: StoredPath
) -> None:
    path = write_sweep(
        families={"prompt": {"candidates": 3}, "lora": LORA}, workers={"pack": 2}, certify=True
    )

    def command(*words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "launch.py"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
        )

    def end(process: "subprocess.Popen[str]") -> str:
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    end(command("run", str(path), "--out", str(tmp_path / "quiet")))
    store.fail_every, store.lose_every, store.cut_every = 37, 53, 41
    store.delay_s = 0.005
    places = ["/rungs/", "/decisions/", "/predictions/", "/programs/", "accepted.a4", "/cert"]
    killed = []
    for number, pattern in enumerate(places):
        begun = (folder / "run.json").exists()
        words = ["resume", str(folder)] if begun else ["run", str(path), "--out", str(folder)]
        process = command(*words)

        def trap(
            name: str, pattern: str = pattern, group: int = process.pid, number: int = number
        ) -> None:
            if pattern in name and number not in killed:
                killed.append(number)
                os.killpg(group, signal.SIGKILL)

        store.trap = trap
        process.communicate()
    store.trap = lambda _: None
    output = end(command("resume", str(folder)))
    assert "candidates ended" in output or "nothing is left to do" in output
    assert len(killed) >= 5
    assert content(folder) == content(tmp_path / "quiet")

    def certified(run: Place) -> list[tuple[Any, ...]]:
        rows = rows_of(Ledger(run / "ledger"), "certificates")
        return sorted((row["candidate"], row["score"], row["lower"]) for row in rows)

    assert certified(folder) == certified(tmp_path / "quiet")
    faults = ("failed", "lost", "cut")
    assert all(store.done[fault] > 3 for fault in faults), store.done
    for words in (
        ["verify", str(folder)],
        ["front", str(folder), "--json"],
        ["status", str(folder)],
    ):
        end(command(*words))
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "log").glob("a*.000.log"))
    assert b"test-secret" not in b"".join(path.read_bytes() for path in folder.rglob("*"))
