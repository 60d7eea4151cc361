"""A run that is killed, or whose disk fails, at every change of its files, from search to data set.

The steps run in this process, without Ray; a kill is a copy of all files at that instant. The short
form takes each 40th point. All of them, with each kind of failure at each, by

    pytest -m slow --log-cli-level=WARNING tests/whole_runs/test_crash_points.py

which says how many there were.
"""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from kilobit.cluster.cli.aggregate import aggregate
from kilobit.cluster.cli.certify import certify
from kilobit.cluster.cli.proofs import verify
from kilobit.cluster.cli.scorecard import scorecard
from kilobit.cluster.driver import recorder
from kilobit.cluster.requests import (
    AggregateRequest,
    CertifyRequest,
    ScorecardRequest,
    VerifyRequest,
)
from kilobit.cluster.runs.folder import create_run, reopen_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import TABLES
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.settings import InputError
from tests.support.driver.crash_points import copies, count, failing
from tests.support.driver.in_process import search
from tests.support.driver.ledgers import DIFFER, LORA
from tests.support.object_store import Proxy
from tests.support.rows import rows_of

LOG = logging.getLogger("kilobit.tests")
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EDQUOT)
SHORT_STRIDE = 40
# What differs between attempts and their times, besides what differs between searches.
NOT_COMPARED = DIFFER | {"opened_at", "run", "part"}
BATTERY = {
    "tasks": [{"task": {"kind": "miniature", "name": "translation"}, "examples": 2}],
    "perplexity": None,
    "safety": None,
    "game": None,
    "harness": [],
}
Step = Callable[[Path], Any]


class World:
    """The steps of one small run and its data set in a folder, each of which can be repeated."""

    def __init__(self, folder: Path, sweep: Path) -> None:
        folder.mkdir()
        self.folder, self.file, self.sweep = folder, sweep, load_sweep(sweep)
        self.battery = folder / "battery.yaml"
        self.battery.write_text(json.dumps(BATTERY), "utf-8")
        self.steps = (self.search, self.verify, self.certify, self.scorecard, self.aggregate)

    def search(self, all_files: Place) -> None:
        run = all_files / "run"
        begun = (run / "run.json").exists()
        with reopen_run(run) if begun else create_run(self.sweep, self.file, run) as opened:
            search(opened)

    def verify(self, all_files: Place) -> None:
        assert verify(VerifyRequest(what=all_files / "run")) == 0

    def certify(self, all_files: Place) -> None:
        assert certify(CertifyRequest(runs=(all_files / "run",))) == 0

    def scorecard(self, all_files: Path) -> None:
        request = ScorecardRequest(run=all_files / "run", battery=self.battery)
        assert scorecard(request) == 0

    def aggregate(self, all_files: Path) -> None:
        request = AggregateRequest(runs=(all_files / "run",), out=all_files / "set")
        assert aggregate(request) == 0

    def copy_before(self, step: Step, name: str) -> Path:
        """Return a folder of that name with the files as they are before a step."""
        made = self.folder / name
        index = [one.__name__ for one in self.steps].index(step.__name__)
        if not index:
            made.mkdir()
            return made
        earlier = self.steps[index - 1]
        kept = self.folder / "after" / earlier.__name__
        if not kept.exists():
            done = self.copy_before(earlier, f"to-{earlier.__name__}")
            earlier(done)
            shutil.copytree(done, kept)
        return Path(shutil.copytree(kept, made))


def died(all_files: Path) -> Path:
    """Return copied files whose claims are those of a process that is no more."""
    for claim in all_files.glob("run/ledger/attempts/*.json"):
        about = json.loads(claim.read_bytes())
        claim.write_text(json.dumps(about | {"began": 0.0}), "utf-8")
    return all_files


def found(all_files: Place) -> dict[str, list[str]]:
    """Return all rows that the steps have made, but for times and numbers of attempts."""
    ledger = Ledger(all_files / "run" / "ledger")
    rows = {table: rows_of(ledger, table) for table in TABLES if table != "workers"}
    files = []
    if isinstance(all_files, Path):
        files = [all_files / "run" / "scorecard.parquet", *all_files.glob("set/*/*.parquet")]
    for file in files:
        if file.exists() and "workers" not in file.parts:
            rows.setdefault(str(file.relative_to(all_files).parent), []).extend(
                pq.read_table(file).to_pylist()
            )
    return {
        table: sorted(
            repr([(key, value) for key, value in row.items() if key not in NOT_COMPARED])
            for row in of
        )
        for table, of in rows.items()
    }


@pytest.fixture
def world(
    write_sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    # So few that a small run folds its ledger several times.
    monkeypatch.setattr(recorder, "FOLD_EVERY", 2)
    records = [{"a": f"{n} + {n}", "b": "2" if n % 3 else str(n)} for n in range(36)]
    (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    task = {"kind": "jsonl", "name": "sums", "data": "data.jsonl", "input_field": "a"}
    more = {"target_field": "b", "fractions": {"search": 0.3, "sealed": 0.3}, "max_new_tokens": 2}
    more |= {"metric": "exact_match", "question": "{input}=", "answer": "{target}"}
    path = write_sweep(
        task=task | more,
        families={
            "prompt": {"candidates": 2, "demonstrations": [0, 1]},
            "lora": {**LORA, "candidates": 1},
        },
        rate_search={"keep": [1.0]},
    )
    return World(tmp_path / "world", path)


def check_kills(world: World, step: Step, stride: int) -> int:
    """Kill a step at each `stride`-th instant, go on and compare; return the number of kills."""
    quiet = world.copy_before(step, "all-files")
    points = copies(quiet, world.folder / "killed", lambda: step(quiet))
    expected = found(quiet)
    chosen = points[::-1][::stride]
    for killed in chosen:
        step(died(killed) if step.__name__ in ON_A_STORE else killed)
        assert found(killed) == expected, killed.parent.name
        shutil.rmtree(killed.parent)
    return len(chosen)


def check_failures(world: World, step: Step, stride: int, errnos: Sequence[int]) -> int:
    """Fail each `stride`-th change with each error, go on and compare; return their number."""
    quiet = world.copy_before(step, f"quiet-{errnos}")
    changes = count(quiet, lambda: step(quiet))
    expected = found(quiet)
    tries = [(at, number) for at in range(0, len(changes), stride) for number in errnos]
    for at, number in tries:
        files = world.copy_before(step, f"failed-{at}-{number}")
        outcome = failing(files, at, number, lambda files=files: step(files))
        what = f"{changes[at]}, {errno.errorcode[number]}: {outcome!r}"
        assert outcome is None or isinstance(outcome, OSError | InputError), what
        if outcome is not None:
            assert os.strerror(number) in str(outcome), what
            step(died(files) if step.__name__ in ON_A_STORE else files)
        assert found(files) == expected, what
        shutil.rmtree(files)
    return len(tries)


STEPS = ("search", "verify", "certify", "scorecard", "aggregate")
# Those that lock the run and write to its ledger, also on a store.
ON_A_STORE = STEPS[:3]


@pytest.mark.parametrize("name", ["search", "aggregate"])
def test_a_kill_at_some_changes_loses_nothing(world: World, name: str) -> None:
    assert check_kills(world, getattr(world, name), SHORT_STRIDE)


def test_an_error_at_some_changes_loses_nothing(world: World) -> None:
    for shift, number in enumerate(ERRNOS[:2]):
        assert check_failures(world, world.search, SHORT_STRIDE + shift, [number])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", STEPS)
def test_a_kill_at_every_change_loses_nothing(world: World, name: str) -> None:
    LOG.warning("%s: killed at %d instants", name, check_kills(world, getattr(world, name), 1))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", STEPS)
def test_an_error_at_every_change_loses_nothing(world: World, name: str) -> None:
    number = check_failures(world, getattr(world, name), 1, ERRNOS)
    LOG.warning("%s: %d failures of a change", name, number)


FAULTS = [
    pytest.param(fault, marks=[] if fault == "lose" else pytest.mark.slow)
    for fault in ("fail", "lose", "twice", "slow")
]


def run_until(world: World, name: str, folder: StoredPath) -> None:
    """Do the steps before the one of that name."""
    for earlier in ON_A_STORE[: ON_A_STORE.index(name)]:
        getattr(world, earlier)(folder)


def check_kills_on_a_store(
    world: World, name: str, store: Proxy, folder: StoredPath, stride: int
) -> int:
    """Kill a step before each `stride`-th request that changes the store, go on and compare."""
    run_until(world, name, folder)
    served = store.store
    assert served is not None, "the kills need the store of this process"
    states: list[dict[str, tuple[bytes, float]]] = []

    def keep(path: str) -> None:
        # Signs of life come from a thread at any time.
        if not urlsplit(path).path.endswith(".alive"):
            states.append(dict(served.objects))

    step = getattr(world, name)
    store.before = keep
    step(folder)
    store.calm()
    states.append(dict(served.objects))
    expected = found(folder)
    chosen = states[::-1][::stride]
    for state in chosen:
        served.objects = dict(state)
        for key, (content, when) in state.items():
            if re.fullmatch(f"{folder.key}/.*/attempts/[0-9]+.json", key):
                claim = json.dumps(json.loads(content) | {"began": 0.0})
                served.objects[key] = claim.encode(), when
        step(folder)
        assert found(folder) == expected, sorted(state)
    return len(chosen)


@pytest.mark.parametrize("name", ON_A_STORE[:1])
def test_a_kill_at_some_requests_loses_nothing(
    world: World, name: str, store: Proxy, folder: StoredPath
) -> None:
    assert check_kills_on_a_store(world, name, store, folder, SHORT_STRIDE)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ON_A_STORE)
def test_a_kill_at_every_request_loses_nothing(
    world: World, name: str, store: Proxy, folder: StoredPath
) -> None:
    number = check_kills_on_a_store(world, name, store, folder, 1)
    LOG.warning("%s on a store: killed at %d instants", name, number)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_fails_each_request_once_changes_nothing(
    world: World, tmp_path: Path, fault: str, store: Proxy, folder: StoredPath
) -> None:
    for name in ON_A_STORE:
        getattr(world, name)(tmp_path)
    store.first = fault
    for name in ON_A_STORE:
        getattr(world, name)(folder)
    LOG.warning("%s: %d requests", fault, store.done[fault])
    assert store.done[fault] > 100
    store.calm()
    assert found(folder) == found(tmp_path)
