"""Runs that are begun, resumed and locked, and what `run` and `resume` refuse."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kilobit import launch
from kilobit.cluster.cli.run import _duckdb
from kilobit.cluster.messages import StoppedError
from kilobit.cluster.runs.folder import create_run, open_run, reopen_run
from kilobit.cluster.runs.lock import lock_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.fencing import SupersededError
from kilobit.evaluators.ledger.stored_path import StoredPath
from tests.conftest import REPOSITORY
from tests.support.cli.failing import fails, refused
from tests.support.object_store import Proxy
from tests.support.rows import rows_of, write_rows
from tests.support.tasks.records import write_jsonl

Write = Callable[..., Path]


def test_a_folder_that_is_taken_is_refused(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, tmp_path: Path
) -> None:
    path, out = str(write_sweep()), tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text("{}")
    assert "run.json can't be read: 'sweep' is missing; choose another folder" in fails(
        capsys, "run", path, "--out", str(out)
    )
    assert "belongs to --continue" in fails(capsys, "run", path, "--out", str(out), "--take-over")
    (out / "run.json").rename(out / "thesis.tex")
    assert "is neither empty nor a run" in fails(capsys, "run", path, "--out", str(out))
    assert (out / "thesis.tex").exists()


@pytest.fixture
def begun(write_sweep: Write, tmp_path: Path) -> Path:
    """Return the folder of a run that was begun and has done nothing."""
    path = write_sweep()
    with create_run(load_sweep(path), path, tmp_path / "run") as run:
        return run.path


def test_a_run_that_is_held_is_not_written_by_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, begun: Path
) -> None:
    with reopen_run(begun) as run:
        assert run.attempt == 2
        for command in ("resume", "verify"):
            message = fails(capsys, command, str(begun))
            assert f"{begun} is locked by attempt 2 on " in message
            assert f"process {os.getpid()}" in message
            assert "It is running: wait for it" in message
        # Only a holder that gives no sign of life may be dead.
        monkeypatch.setattr("kilobit.cluster.runs.lock._WATCH_S", 0.0)
        assert f"kilobit resume {begun} --take-over" in fails(capsys, "resume", str(begun))
        # Looking is free.
        assert launch.main(["status", str(begun)]) == 0
        assert "locked by attempt 2 on " in capsys.readouterr().out
        with reopen_run(begun, take_over=True) as other:
            assert other.attempt == 3
            with pytest.raises(SupersededError):
                write_rows(run.ledger, "rungs", "x", [{"candidate": "x"}])
    assert launch.main(["status", str(begun)]) == 0
    assert "not running" in capsys.readouterr().out


def test_a_folder_whose_run_was_killed_as_it_began_can_be_used(
    write_sweep: Write, tmp_path: Path
) -> None:
    path, out = write_sweep(), tmp_path / "out"
    with lock_run(out / "ledger"):
        pass
    (out / ".run.json.0.tmp").write_text("half")
    with create_run(load_sweep(path), path, out) as run:
        assert run.attempt == 2
        write_rows(run.ledger, "rungs", "x", [{"candidate": "x"}])
    assert len(rows_of(open_run(out).ledger, "rungs")) == 1


def test_resuming_changes_the_budget_and_nothing_else(
    capsys: pytest.CaptureFixture[str], begun: Path
) -> None:
    with reopen_run(begun, overrides=["budget.seconds=60", "budget.candidates=9"]) as run:
        assert (run.sweep.budget.seconds, run.sweep.budget.candidates) == (60, 9)
    assert open_run(begun).sweep.budget.candidates == 9
    attempts = json.loads((begun / "run.json").read_text())["attempts"]
    overrides = [(one["attempt"], one["overrides"]) for one in attempts]
    assert overrides == [(1, []), (2, ["budget.seconds=60", "budget.candidates=9"])]
    for override, message in (
        ("seed=3", "'seed=3': a resumed run keeps its settings; only these may change: budget.c"),
        ("budget=3", "'budget=3': a resumed run keeps its settings"),
        ("budget.hours=3", "'budget.hours=3': a resumed run keeps its settings"),
        ("budget.candidates=0", "command line: budget.candidates: Input should be greater than"),
        ("budget.seconds", "an override is written key=value"),
    ):
        assert message in fails(capsys, "resume", str(begun), override)
    assert open_run(begun).attempt == 2


def test_a_run_of_a_removed_proposer_is_read_but_not_gone_on_with(
    capsys: pytest.CaptureFixture[str], begun: Path, write_sweep: Write, tmp_path: Path
) -> None:
    manifest = json.loads((begun / "run.json").read_text())
    manifest["sweep"] |= {"proposer": {"kind": "descent", "fresh": 4}}
    manifest["sweep"]["budget"]["candidates"] = 9
    (begun / "run.json").write_text(json.dumps(manifest))
    said = "can't be resumed: its proposer 'descent' was removed; it can still be read"
    assert said in fails(capsys, "resume", str(begun))
    assert said in fails(capsys, "run", str(write_sweep()), "--out", str(begun), "--continue")
    for command in ("front", "status", "verify"):
        assert launch.main([command, str(begun)]) == 0, command
    assert launch.main(["report", str(begun), "-o", str(tmp_path / "report.html")]) == 0
    # `verify` began an attempt; the record still names the proposer.
    written = json.loads((begun / "run.json").read_text())
    assert len(written["attempts"]) == 2
    assert written["sweep"]["proposer"] == manifest["sweep"]["proposer"]
    assert said in fails(capsys, "resume", str(begun))


def test_a_run_of_an_older_version_is_read_but_not_gone_on_with(
    capsys: pytest.CaptureFixture[str], begun: Path
) -> None:
    manifest = json.loads((begun / "run.json").read_text())
    del manifest["ledger_schema"]
    (begun / "run.json").write_text(json.dumps(manifest))
    assert "by an older version: it can be read, but" in fails(capsys, "resume", str(begun))
    assert launch.main(["front", str(begun)]) == 0


def test_a_ledger_that_can_not_be_written_ends_in_one_line_and_the_way_to_go_on(
    capsys: pytest.CaptureFixture[str], begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert launch.main(["resume", str(begun)]) == 1
        assert "No space left on device" in capsys.readouterr().err

    def stop(*_: object) -> None:
        raise StoppedError("No space left on device: 'x.parquet'")

    monkeypatch.setattr("kilobit.cluster.driver.attempt.execute", stop)
    assert launch.main(["resume", str(begun)]) == 1
    captured = capsys.readouterr()
    assert captured.err == "kilobit: No space left on device: 'x.parquet'\n"
    assert f"Go on with:\n  kilobit resume {begun}" in captured.out


@pytest.mark.parametrize("place", ["/proc/kilobit", "/dev/null/run", "/tmp/a\0b"])
def test_a_folder_that_can_not_be_written_is_refused(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, place: str
) -> None:
    message = fails(capsys, "run", str(write_sweep()), "--out", place)
    assert message.startswith(f"{place!r} can't be written: ")


@pytest.mark.parametrize("command", ["status", "front", "resume"])
def test_a_folder_without_a_run_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    assert f"{tmp_path} holds no run: run.json is missing" in fails(capsys, command, str(tmp_path))
    (tmp_path / "run.json").write_text('{"sweep": 3}')
    assert "run.json can't be read" in fails(capsys, command, str(tmp_path))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("127.0.0.1:99999999", "answers at 127.0.0.1:9999"),
        ("ray://x y", "answers at ray://x y"),
        ("ray://", "answers at ray://: the address names no host"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("ray://here:port", "Port could not be cast"),
        ("nonsense", "answers at nonsense"),
    ],
)
def test_an_address_where_nobody_answers_is_named_and_leaves_no_run(
    capsys: pytest.CaptureFixture[str],
    write_sweep: Write,
    tmp_path: Path,
    address: str,
    message: str,
) -> None:
    out = tmp_path / "out"
    found = fails(capsys, "run", str(write_sweep()), "--out", str(out), "--address", address)
    assert message in found
    assert found.startswith("--address: no Ray cluster that accepts our token answers at")
    assert not out.exists()


def test_workers_that_do_not_fit_are_refused_before_a_run_begins(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, tmp_path: Path
) -> None:
    path, out = str(write_sweep()), tmp_path / "out"
    for override in ("workers.per_model=5000", "workers.gpus=64"):
        assert "workers" in fails(capsys, "run", path, "--out", str(out), override)
    assert not out.exists()


def test_a_dry_run_says_what_does_not_fit_on_this_machine(
    capsys: pytest.CaptureFixture[str], write_sweep: Write
) -> None:
    argv = ["run", str(write_sweep(workers={"gpus": 64})), "--dry-run"]
    assert launch.main(argv) == 0
    shown = capsys.readouterr().out
    assert "does not fit on this machine: workers.gpus: 1 workers of" in shown
    assert "The sweep file is valid, but this machine can't run it; nothing was started." in shown
    assert launch.main([*argv, "--address", "127.0.0.1:1"]) == 0
    assert "does not fit" not in capsys.readouterr().out


def test_a_cache_starts_at_the_sweep_file_and_has_to_be_writable(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, tmp_path: Path
) -> None:
    path = write_sweep(cache="shared/cache")
    assert load_sweep(path).cache == tmp_path / "shared" / "cache"
    assert launch.main(["run", str(path), "--dry-run"]) == 0
    assert not (tmp_path / "shared").exists()
    (tmp_path / "shared").write_text("a file")
    message = fails(capsys, "run", str(path), "--dry-run")
    assert f"cache: can't be written: {tmp_path}/shared: Not a directory" in message


def test_the_same_run_twice_is_refused(
    capsys: pytest.CaptureFixture[str], begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(begun.parent)
    message = fails(capsys, "certify", str(begun), begun.name)
    assert message.startswith(f"{begun.name} is named twice")


def test_brackets_in_names_are_no_markup_and_a_byte_order_mark_is_no_data(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, tmp_path: Path
) -> None:
    lines = [json.dumps({"input": str(i), "target": "x"}) for i in range(60)]
    (tmp_path / "d.jsonl").write_text("\ufeff" + "\n".join(lines), "utf-8")
    name = "[red]x[/] [/bold]"
    task = {"kind": "jsonl", "name": name, "data": "d.jsonl", "metric": "exact_match"}
    assert launch.main(["run", str(write_sweep(task=task)), "--dry-run"]) == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    "example", sorted(p.name for p in (REPOSITORY / "examples").glob("*.yaml"))
)
def test_every_example_dry_runs_without_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    # Read from the environment at import, which another test of this process may have done before.
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert launch.main(["run", str(REPOSITORY / "examples" / example), "--dry-run"]) == 0
    said = capsys.readouterr().out
    asks_for_gpus = bool(load_sweep(REPOSITORY / "examples" / example).workers.gpus)
    assert ("does not fit on this machine: workers.gpus: " in said) == asks_for_gpus
    verdict = ", but this machine can't run it" if asks_for_gpus else ""
    assert f"The sweep file is valid{verdict}; nothing was started." in said


Store = Proxy


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


def test_a_dry_run_counts_inputs_that_are_almost_in_two_splits(
    write_sweep: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, inputs in (("train", "ab"), ("search", ["c", "d", " A", "B"]), ("sealed", "ef")):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"input": i, "target": "1"} for i in inputs])
    files = {name: f"{name}.jsonl" for name in ("train", "search", "sealed")}
    task = {"kind": "jsonl", "name": "mine", "files": files, "metric": "exact_match"}
    rungs = {"examples": 2, "train_steps": 2, "eta": 2, "count": 2}
    sweep = str(write_sweep(task=task, rungs=rungs))
    assert launch.main(["run", sweep, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "inputs of the search split that are in the train split too, but for" in said
    assert "normalisation: 2, for example " in said
    assert "inputs of the sealed split" not in said
    refused = fails(capsys, "run", sweep, "--dry-run", "task.near_duplicates=error")
    assert "task mine: inputs of the search split that are in the train split too" in refused


@pytest.mark.parametrize("name", ["plain", "it's", "[old] run", "what?", 'a"b', "$HOME `id`", "2*"])
def test_the_line_for_duckdb_survives_the_name_of_the_folder(tmp_path: Path, name: str) -> None:
    for folder in (name, "other", "o run", "20"):
        file = tmp_path / folder / "ledger" / "rungs" / "a.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.table({"folder": [folder]}), file)
    program, option, query = shlex.split(_duckdb(tmp_path / name))
    assert (program, option) == ("duckdb", "-c")
    with duckdb.connect() as connection:
        assert connection.execute(query).fetchall() == [(name,)]
    assert _duckdb(Path("/runs/a")) == (
        "duckdb -c \"SELECT * FROM '/runs/a/ledger/rungs/*.parquet'\""
    )
