"""A run whose folder lies on an object store: killed and gone on with, and refused in plain words.

The short form runs in this process and without Ray. Whole runs under SIGKILL, on a store that
fails, loses answers and cuts uploads, by

    pytest -m slow tests/cluster/test_remote_run.py
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import launch
from cluster.attempts import HeldError, hold, holder_of, is_held
from cluster.check import check_sweep
from cluster.evaluator import Evaluator
from cluster.messages import EvaluatorSetup
from cluster.run import _rebuild
from cluster.run_folder import RunFolder, create_run, discard_run, reopen_run
from cluster.run_log import StoredLog
from evaluators import stored_path
from evaluators.fence import claim_file
from evaluators.ledger import Ledger
from evaluators.storage import Place
from evaluators.stored_path import StoredPath
from search.sweep import SweepError, load_sweep
from tests.cluster.test_kills import LORA, content
from tests.conftest import REPOSITORY
from tests.object_store import Proxy

Write = Callable[..., Path]
Store = Proxy


class DeadError(BaseException):
    """This process is taken for dead: nothing that it does reaches the store."""


def search(run: RunFolder) -> None:
    """Do what an attempt does, in this process."""
    plan = check_sweep(run.sweep, run.sweep_folder)
    recorder, state = _rebuild(run, plan, None)
    (model,), ladder = run.sweep.base_models, run.sweep.rungs.ladder()
    worker = Evaluator(
        EvaluatorSetup(
            run.sweep.model_dump_json(),
            str(run.sweep_folder),
            str(run.path),
            model.label,
            "w-0",
            run.attempt,
        )
    )
    waiting = [(c, state.next_rung[c.id]) for c in recorder.pending(state)]
    while True:
        if not waiting:
            proposed = recorder.propose(model.label)
            if proposed is None:
                return
            waiting.append((proposed, recorder.first_rung))
        candidate, rung = waiting.pop(0)
        row = worker.run_rung(candidate.canonical(), ladder[rung])
        decision = recorder.decide_together(row["together"])[candidate.id, rung]
        if decision.action == "promote":
            waiting.insert(0, (candidate, rung + 1))


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
    orders = [row["order"] for row in Ledger(folder / "ledger").rows("decisions")]
    assert sorted(orders) == list(range(len(orders)))
    assert (store.done["failed"] > 0, store.done["cut"] > 0) == (True, True)


def test_of_many_who_claim_a_run_on_a_store_one_holds_it(store: Store, folder: StoredPath) -> None:
    ledger, start, held = folder / "ledger", threading.Barrier(4), list[int]()
    store.lose_every = 5

    def claim() -> None:
        start.wait()
        try:
            with hold(ledger) as attempt:
                held.append(attempt)
                start.wait()
        except HeldError:
            start.wait()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # All four claims are equal, for they are of one process; those of several never are.
    assert set(held) == {1}
    assert store.done["lost"] > 0
    assert holder_of(ledger) is None


def test_a_holder_elsewhere_lives_by_the_clock_of_the_store(
    store: Store, folder: StoredPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = folder / "ledger"
    with hold(ledger):
        claim = json.loads(claim_file(ledger, 1).read_bytes())
        claim_file(ledger, 1).write_bytes(json.dumps(claim | {"machine": "other"}).encode())
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        assert is_held(ledger, 1)
        assert "process" in str(holder_of(ledger))
        with pytest.raises(HeldError, match="is locked by attempt 1"), hold(ledger):
            pass
    assert not is_held(ledger, 1)


def test_a_run_that_never_began_leaves_nothing_on_a_store(
    write_sweep: Write, folder: StoredPath
) -> None:
    path = write_sweep()
    (folder / "log.txt").write_bytes(b"mine")
    with (
        pytest.raises(SweepError, match=r"is neither empty nor a run: it holds log\.txt"),
        create_run(load_sweep(path), path, folder),
    ):
        pass
    with create_run(load_sweep(path), path, folder / "run") as run:
        (run.path / "other.txt").write_bytes(b"mine")
        discard_run(run)
    assert [path.name for path in folder.rglob("*")] == ["log.txt", "other.txt"]


def test_the_log_is_on_the_store_before_the_run_ends_and_begins_anew_when_large(
    folder: StoredPath,
) -> None:
    handler = StoredLog(folder / "log", 2, every_s=0.01)

    def say(text: str) -> None:
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))

    say("one")
    while not (folder / "log" / "a2.000.log").exists():
        time.sleep(0.01)
    say("x" * 300_000)
    while (folder / "log" / "a2.000.log").stat().st_size < 300_000:
        time.sleep(0.01)
    say("last")
    handler.close()
    lines = b"".join(path.read_bytes() for path in sorted((folder / "log").glob("*")))
    assert lines.decode().split("\n") == ["one", "x" * 300_000, "last", ""]
    assert len(list((folder / "log").glob("*"))) == 2


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    stored_path._store.cache_clear()
    assert launch.main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("kilobit: ")
    assert len(message.strip().splitlines()) == 1
    return message


def test_a_store_that_can_not_be_used_ends_a_command_with_one_message_and_status_2(
    write_sweep: Write,
    store: Store,
    folder: StoredPath,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, run, none = str(write_sweep()), str(folder), "s3://no-such-bucket/run"
    assert "holds no run: run.json is missing" in refused(capsys, "status", run)
    for words in (["run", path, "--out", none], ["resume", none], ["front", none]):
        assert "there is no bucket s3://no-such-bucket: make it" in refused(capsys, *words)
    assert "cache: there is no bucket" in refused(capsys, "run", path, f"cache={none}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for words in (["run", path, "--out", run], ["resume", run], ["verify", run]):
        assert "no answer at http://127.0.0.1:9" in refused(capsys, *words)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert "pip install 'kilobit[store]'" in refused(capsys, "run", path, "--out", run)


def test_a_wrong_key_ends_a_command_with_one_message_and_status_2(
    store: Store,
    folder: StoredPath,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "KILOBIT_S3" in os.environ:
        pytest.skip("moto takes every key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert "refuses access (InvalidAccessKeyId)" in refused(capsys, "status", str(folder))


def test_a_password_in_a_url_is_refused_and_not_repeated(
    write_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "s3://me:sesame@bucket/run"
    with pytest.raises(SystemExit) as caught:
        launch.main(["status", url])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert "give credentials by the environment" in shown
    shown += refused(capsys, "run", str(write_sweep(cache=url)))
    shown += refused(capsys, "run", str(write_sweep()), f"out={url}")
    assert "sesame" not in shown


def test_what_has_to_be_local_may_not_be_a_url(
    write_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [{"regime": "x", "path": "s3://bucket/model"}]
    assert "a local path is needed, not a URL" in refused(
        capsys, "run", str(write_sweep(base_models=models))
    )


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
        rows = Ledger(run / "ledger").rows("certificates")
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
