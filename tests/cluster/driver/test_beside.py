"""Programs on the front are verified while the search goes on, with what nobody else uses."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from io import StringIO
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from kilobit.cluster.cli.certify import certify_runs
from kilobit.cluster.cli.proofs import verifier, verify_front
from kilobit.cluster.driver import attempt
from kilobit.cluster.driver.beside import Beside
from kilobit.cluster.runs.folder import RunFolder, reopen_run
from kilobit.cluster.runs.fronts import RunFront
from kilobit.evaluators.proof import sandbox
from kilobit.evaluators.proof.sandbox import Limits, Sandbox
from kilobit.search.records import RungRecord
from tests.support.cli.sealed import Make, add
from tests.support.rows import rows_of

pytestmark = pytest.mark.timeout(120)
FRONT = {"raw-4-0", "raw-16-90", "tuned-8-0", "tuned-17-20"}
IDLE = getattr(os, "SCHED_IDLE", None)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that says of each program that is run whether it is idle."""
    found: list[bool] = []
    real = Sandbox.run

    def run(own: Sandbox, *args: Any, **more: Any) -> list[str]:
        found.extend(arg.idle for arg in args if isinstance(arg, Limits))
        return real(own, *args, **more)

    monkeypatch.setattr(Sandbox, "run", run)
    monkeypatch.setattr(sandbox, "_MODULES", ())
    monkeypatch.setattr(sandbox, "_MODULES_OF_ADAPTERS", ())
    return found


@contextmanager
def searching(run: RunFolder, address: str | None = None) -> Iterator[tuple[RunFolder, Beside]]:
    with (
        reopen_run(run.path) as held,
        Beside(held, address, partial(verifier, held, 1)) as beside,
    ):
        beside.look()
        yield held, beside


def wait_for(found: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not found():
        assert time.monotonic() < until
        time.sleep(0.02)


def verified(run: RunFolder) -> set[str]:
    return {row["candidate"] for row in rows_of(run.ledger, "verifications") if row["verified"]}


def running(beside: Beside) -> list[Any]:
    return [one for one in beside._begun.values() if not one.done()]


def finish(run: RunFolder, beside: Beside) -> str:
    text = StringIO()
    verify_front(RunFront(run), Console(file=text, soft_wrap=True), beside=beside)
    return text.getvalue()


def test_what_is_verified_during_the_search_is_not_run_again(
    make: Make, idle: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[int] = []
    real = sandbox._Server
    monkeypatch.setattr(sandbox, "_Server", lambda *args: servers.append(1) or real(*args))
    with searching(make()) as (run, beside):
        wait_for(lambda: verified(run) == FRONT)
        # A shorter program, which leaves another behind it.
        add(run, "tuned", 18, 10)
        beside.look()
        wait_for(lambda: "tuned-18-10" in verified(run))
        assert idle == [True] * 5
        assert finish(run, beside) == ""
        assert idle == [True] * 5
        certify_runs([RunFront(run)], Console(quiet=True), opened=beside.opened)
        assert idle == [True] * 5 + [False] * len(RunFront(run).on_front)
    # One process has imported the libraries for all of them.
    assert len(servers) == 1
    assert {point.verified for point in RunFront(run).on_front} == {True}


@pytest.mark.skipif(IDLE is None, reason="this system has no such priority")
def test_what_fails_for_lack_of_time_is_run_again_after_the_search(
    make: Make, idle: list[bool]
) -> None:
    run = make()
    add(run, "raw", 17, 95, f"if os.sched_getscheduler(0) == {IDLE}: sys.exit('no time')")
    with searching(run) as (held, beside):
        wait_for(lambda: verified(held) == FRONT)
        wait_for(lambda: len(idle) == 5 and not running(beside))
        assert "verifying 1 programs of the front" in finish(held, beside)
        assert idle == [True] * 5 + [False]
        assert verified(held) == {*FRONT, "raw-17-95"}


def test_a_program_that_runs_when_the_search_ends_is_waited_for(
    make: Make, idle: list[bool]
) -> None:
    run = make()
    add(run, "raw", 5, 0, "import time; number == 1000 and time.sleep(1)")
    with searching(run) as (held, beside):
        wait_for(lambda: bool(idle))
        assert "verifying 4 programs of the front" in finish(held, beside)
    assert len(idle) == 4
    assert verified(run) == {*FRONT, "raw-5-0"} - {"raw-4-0"}


@pytest.mark.skipif(IDLE is None, reason="this system has no such priority")
def test_a_program_that_gets_no_processor_time_is_run_again_after_the_search(
    make: Make, idle: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilobit.cluster.driver.beside._PATIENCE_S", 0.5)
    run = make()
    add(run, "raw", 17, 95, f"import time; os.sched_getscheduler(0) == {IDLE} and time.sleep(100)")
    with searching(run) as (held, beside):
        wait_for(lambda: verified(held) == FRONT)
        assert len(running(beside)) == 1
        assert "verifying 1 programs of the front" in finish(held, beside)
        assert idle == [True] * 5 + [False]
        # What was ended has left nothing behind.
        assert not running(beside)
    assert verified(run) == {*FRONT, "raw-17-95"}


def test_an_interrupt_ends_the_program_that_runs(make: Make, idle: list[bool]) -> None:
    run = make()
    add(run, "raw", 5, 0, "import time; time.sleep(100)")
    began = time.monotonic()
    with suppress(KeyboardInterrupt), searching(run) as (_, beside):
        wait_for(lambda: verified(run) == FRONT - {"raw-4-0"} and bool(running(beside)))
        raise KeyboardInterrupt
    assert time.monotonic() - began < 60
    assert verified(run) == FRONT - {"raw-4-0"}


def test_nothing_runs_where_nothing_is_free(
    make: Make, idle: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    on_gpus = make("gpus", base_models=[{"regime": "raw", "path": ".", "device": "cuda"}])
    with searching(run, "auto") as (_, beside):
        assert beside.opened is None
    with searching(on_gpus) as (_, beside):
        assert beside.opened is None
    full = SimpleNamespace(available=3 << 30, total=16 << 30)
    with monkeypatch.context() as patched:
        patched.setattr(psutil, "virtual_memory", lambda: full)
        with searching(run) as (held, beside):
            wait_for(lambda: not beside._news.is_set())
            wait_for(lambda: beside._front != set() and not running(beside))
            assert idle == []
            assert "verifying 4 programs of the front" in finish(held, beside)
    assert idle == [False] * 4
    assert verified(run) == FRONT


def test_a_damaged_part_is_left_to_the_end_of_the_search(make: Make, idle: list[bool]) -> None:
    with reopen_run(make().path) as run:
        (part,) = (run.path / "ledger" / "predictions").glob("raw-4-0-r0.*")
        part.write_bytes(b"damaged")
        with Beside(run, None, partial(verifier, run, 1)) as beside:
            beside.look()
            wait_for(beside._over.is_set)
        assert part.exists()


def test_a_search_tells_of_its_beginning_and_of_completed_candidates(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    view = SimpleNamespace(update=lambda: None)

    def run_trials(searcher: Any, *_: Any) -> list[BaseException]:
        record = RungRecord(candidate="c", rung=0, num_examples=4, score=1.0, payload_bits=8)
        for action in ("promote", "finish", "stop"):
            told.append(action)
            decision: Any = SimpleNamespace(action=action, candidate="c", rung=0)
            searcher._recorder.listener(record, SimpleNamespace(model="raw"), decision, "reason")
        return []

    for name, found in {
        "ray_session": lambda _: nullcontext(),
        "Pool": lambda *_, **__: SimpleNamespace(
            workers=[], here=None, tell=None, release=None, stop=lambda: None
        ),
        "_wait_for_workers": lambda *_: None,
        "_rebuild": lambda *_: (
            SimpleNamespace(pending=lambda _: [], num_proposed=0),
            SimpleNamespace(later=()),
        ),
        "_find_work": lambda *_: told.append("work") is None,
        "LiveView": lambda *_: nullcontext(view),
        "run_trials": run_trials,
    }.items():
        monkeypatch.setattr(attempt, name, found)
    plan: Any = SimpleNamespace(num_candidates=1)
    with reopen_run(make().path) as run:
        attempt.execute(run, plan, Console(quiet=True), None, lambda: told.append("look"))
    assert told == ["work", "look", "promote", "finish", "look", "stop"]
