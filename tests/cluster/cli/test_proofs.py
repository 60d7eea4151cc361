"""What is on a front was run from its two files; what can't be repeated leaves the front."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import kilobit.cluster.driver.attempt
from kilobit import launch
from kilobit.cluster.cli.proofs import report_agreement, verify_front
from kilobit.cluster.driver.attempt import Outcome
from kilobit.cluster.runs.folder import RunFolder, reopen_run
from kilobit.cluster.runs.fronts import RunFront
from kilobit.evaluators.ledger.fencing import latest_attempt
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.model import generate
from kilobit.evaluators.model.generate import library_parts
from kilobit.evaluators.proof.program_files import read_program, write_folder
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.candidate import Candidate
from kilobit.search.settings import InputError
from tests.support.cli.finished import CANDIDATES, RUNGS, finished_run
from tests.support.rows import part_rows, rows_of, write_rows
from tests.support.tasks.records import write_jsonl

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def run(write_sweep: Callable[..., Path], tmp_path: Path) -> RunFolder:
    return finished_run(write_sweep(rungs=RUNGS), tmp_path)


def front(run: RunFolder) -> list[tuple[str, bool | None]]:
    return [(point.candidate, point.verified) for point in RunFront(run).on_front]


def alter(run: RunFolder, one: Candidate) -> None:
    rows = part_rows(run.ledger, "predictions", f"{one.id}-r0")
    assert rows
    rows[3]["output"] += "!"
    write_rows(run.ledger, "predictions", f"{one.id}-r0", rows)


def writer(run: RunFolder) -> Ledger:
    """Return the ledger of whoever held the run last."""
    folder = run.path / "ledger"
    return Ledger(folder, latest_attempt(folder))


def test_a_program_that_repeats_its_predictions_is_verified_and_another_leaves(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, prompted = CANDIDATES
    assert front(run) == [(bare.id, None), (prompted.id, None)]
    # The second program hides a third that is as good and longer.
    hidden = Candidate.model_validate({**bare.model_dump(), "max_new_tokens": 12})
    assert hidden.id != bare.id
    rows = {r["candidate"]: r for r in rows_of(run.ledger, "rungs")}
    part = f"{hidden.id}-r0"
    for table in ("predictions", "programs"):
        copied = part_rows(run.ledger, table, f"{bare.id}-r0") or []
        write_rows(run.ledger, table, part, [{**row, "candidate": hidden.id} for row in copied])
    about = {"task": "numbers", "model": "llama", "regime": "llama", "family": "prompt"}
    write_rows(run.ledger, "candidates", "more", [{"candidate": hidden.id, **about}])
    bits = rows[prompted.id]["program_bits"] + 8
    longer = {**rows[bare.id], "candidate": hidden.id, "score": 0.45, "program_bits": bits}
    write_rows(run.ledger, "rungs", part, [longer])
    alter(run, prompted)

    text = io.StringIO()
    verify_front(RunFront(run), Console(file=text, soft_wrap=True), timeout_s=120)
    assert f"not verified, so not on the front: {prompted.id}" in text.getvalue()
    assert "1 of 8 predictions differ" in text.getvalue()
    assert front(run) == [(bare.id, True), (hidden.id, True)]
    found = {r["candidate"]: r for r in rows_of(run.ledger, "verifications")}
    assert (found[bare.id]["num_equal"], found[bare.id]["num_examples"]) == (8, 8)
    assert (found[prompted.id]["num_equal"], found[prompted.id]["verified"]) == (7, False)
    assert found[prompted.id]["error"] is None
    assert json.loads(found[bare.id]["verified_on"])["device"] == "cpu"

    assert launch.main(["verify", str(run.path)]) == 1
    assert f"not verified: {prompted.id}: 7 of 8 predictions equal" in capsys.readouterr().out
    # The command looks again: what had been altered in the records is what the files give.
    write_rows(writer(run), "verifications", bare.id, [{**found[bare.id], "num_equal": 6}])
    assert launch.main(["verify", str(run.path), "--fresh"]) == 1
    assert "verifying 2 programs of the front" in capsys.readouterr().out
    found = {r["candidate"]: r for r in rows_of(run.ledger, "verifications")}
    assert found[bare.id]["num_equal"] == 8
    # As on a GPU, where the score has to lie in the interval and the agreement is reported.
    found[bare.id] |= {"num_equal": 6}
    write_rows(writer(run), "verifications", bare.id, [found[bare.id]])
    report_agreement(Console(file=text, soft_wrap=True), run)
    assert f"{bare.id}: 6 of 8 predictions equal" in text.getvalue()

    # A verified folder is verified again by anyone who has the base model.
    folder = run.path / "programs" / f"llama-{bare.id}"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["verified"], manifest["num_equal"]) == (True, 8)
    model = str(run.sweep.base_models[0].path)
    assert launch.main(["verify", str(folder), "--model", model]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "8 of 8 predictions equal the recorded ones" in shown
    assert "program.py is the script that this version builds from its recipe" in shown
    # One that is not that base model is refused with the name of the part that differs.
    assert manifest["parts"]["torch"] == torch.__version__
    other = shutil.copytree(model, folder.parent / "other")
    (other / "chat_template.jinja").write_text("{{ messages }}")
    assert launch.main(["verify", str(folder), "--model", str(other)]) == 2
    assert f"measured with {manifest['base_digest']}; what differs: chat template\n" in (
        capsys.readouterr().err
    )


def test_a_run_that_has_ended_goes_on_only_on_its_machine_and_its_data(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = shutil.copytree(model_folders["llama"], tmp_path / "model")
    records = [{"input": f"Ben has {i} coins", "target": f"{i}"} for i in range(60)]
    write_jsonl(tmp_path / "data.jsonl", records)
    task = {"kind": "jsonl", "name": "numbers", "metric": "exact_match", "data": "data.jsonl"}
    base = [{"regime": "llama", "path": "model"}]
    run = finished_run(write_sweep(rungs=RUNGS, task=task, base_models=base), tmp_path)
    # Nothing is left to search, and nothing to verify.
    monkeypatch.setattr(kilobit.cluster.driver.attempt, "execute", lambda *_: Outcome())
    for one in CANDIDATES:
        digest = read_program(run.ledger, f"{one.id}-r0").digest
        found = {"program": digest, "candidate": one.id, "verified": True}
        write_rows(run.ledger, "verifications", one.id, [found])

    def end(words: str | None) -> None:
        status = launch.main(["resume", str(run.path)])
        shown = capsys.readouterr()
        assert (status == 2) is (words is not None), shown
        assert (words or "") in shown.err

    def changed(path: Path, content: str, words: str) -> None:
        before = path.read_text() if path.exists() else None
        path.write_text(content)
        end(words)
        path.unlink()
        if before is not None:
            path.write_text(before)

    end(None)
    changed(model / "chat_template.jinja", "{{ messages }}", "llama: its chat template and")
    config = json.loads((model / "config.json").read_text())
    config["rms_norm_eps"] = 0.5
    changed(model / "config.json", json.dumps(config), "llama: its config changed since the run")
    records[-1]["target"] = "none"
    write = "".join(json.dumps(record) + "\n" for record in records)
    changed(tmp_path / "data.jsonl", write, "split changed since the run began")
    with monkeypatch.context() as patched:
        patched.setattr(generate, "version", lambda _: "0.1")
        end("llama: its torch, transformers, tokenizers and peft changed since the run began")
    end(None)


@pytest.mark.timeout(180)
def test_a_program_that_fails_or_was_exchanged_is_not_verified(run: RunFolder) -> None:
    failing, exchanged = CANDIDATES
    for one in CANDIDATES:
        part = f"{one.id}-r0"
        (row,) = part_rows(run.ledger, "programs", part) or []
        script = "import sys; sys.exit('no')"
        write_rows(run.ledger, "programs", part, [{**row, "script": script}])
        if one == failing:
            digest = read_program(run.ledger, part).digest
            (rung,) = part_rows(run.ledger, "rungs", part) or []
            write_rows(run.ledger, "rungs", part, [{**rung, "program": digest}])
    text = io.StringIO()
    verify_front(RunFront(run), Console(file=text, soft_wrap=True), timeout_s=60)
    assert f"{failing.id}: it ended with status 1: no" in text.getvalue()
    assert f"{exchanged.id}: the ledger holds" in text.getvalue()
    assert front(run) == []
    rows = rows_of(run.ledger, "verifications")
    assert {(r["verified"], r["num_equal"], r["score"]) for r in rows} == {(False, 0, None)}


def test_foreign_code_is_not_trusted_for_its_answers(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = read_program(run.ledger, f"{CANDIDATES[1].id}-r0")
    recorded = part_rows(run.ledger, "predictions", f"{CANDIDATES[1].id}-r0") or []
    inputs = [example.input for example in load_miniature("numbers", 0).splits.search]
    folder, lines = tmp_path / "program", []
    for given, row in zip(inputs, recorded, strict=False):
        lines.append(json.dumps({"input": given, "output": row["output"]}) + "\n")
    (tmp_path / "program").mkdir()
    (folder / "examples.jsonl").write_text("".join(lines))
    answers = {line["input"]: line["output"] for line in map(json.loads, lines)}
    # It has learned the inputs by heart, and says nothing to any other.
    cheat = f"""
import json, sys
for line in sys.stdin:
    print(json.dumps({answers!r}.get(json.loads(line), "")))
"""
    model = str(run.sweep.base_models[0].path)
    sweep = tmp_path / "own.yaml"
    sweep.write_text(yaml.safe_dump(run.sweep.model_dump(mode="json", exclude_defaults=True)))
    about = {"model": "llama", "score": 1.0, "parts": library_parts() | {"torch": "0.1"}}
    write_folder(folder, replace(program, script=cheat.encode()), about)
    verify = ("verify", str(folder), "--model", model)
    assert launch.main([*verify]) == 1
    shown = capsys.readouterr().out
    assert "it is foreign code" in shown
    assert f"{len(lines)} of {len(lines)} predictions equal the recorded ones" in shown
    assert "status 1, because foreign code can do other things on other inputs" in shown
    assert launch.main([*verify, "--trust"]) == 0
    capsys.readouterr()
    # Data that its author never saw show it, trusted or not.
    assert launch.main([*verify, "--trust", "--task", str(sweep)]) == 1
    shown = capsys.readouterr().out
    assert f"on {len(inputs)} examples of your data; the folder says 1.000" in shown
    assert "the search ran with another torch than this machine has" in shown
    # An honest program scores on one's own data what its folder says.
    write_folder(folder, program, about | {"score": 0.0})
    assert launch.main([*verify, "--task", str(sweep)]) == 0
    write_folder(folder, program, about | {"score": "high"})
    capsys.readouterr()
    assert launch.main([*verify, "--task", str(sweep)]) == 2
    assert f"{folder / 'manifest.json'}: score: 'high' is not a number" in capsys.readouterr().err


def test_a_folder_without_a_model_or_with_a_changed_file_is_refused(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = read_program(run.ledger, f"{CANDIDATES[1].id}-r0")
    folder = tmp_path / "program"
    write_folder(folder, program, {"model": "llama"})
    assert launch.main(["verify", str(folder)]) == 2
    assert "examples.jsonl can't be read" in capsys.readouterr().err
    (folder / "examples.jsonl").write_text("")
    assert launch.main(["verify", str(folder)]) == 2
    assert "examples.jsonl: the file holds no examples" in capsys.readouterr().err
    (folder / "examples.jsonl").write_text('{"input": "a", "output": "b"}\n')
    assert launch.main(["verify", str(folder)]) == 2
    assert "--model: give the folder of the base model (llama)" in capsys.readouterr().err
    assert launch.main(["verify", str(folder), "--model", str(tmp_path)]) == 2
    assert "holds no model: config.json is missing" in capsys.readouterr().err
    write_folder(folder, program, {"model": "\x1b[2J", "base_digest": "0123"})
    assert launch.main(["verify", str(folder)]) == 2
    assert "\x1b" not in capsys.readouterr().err
    model = str(run.sweep.base_models[0].path)
    assert launch.main(["verify", str(folder), "--model", model]) == 2
    assert "is another base model: it has the digest" in capsys.readouterr().err
    (folder / "payload.bin").write_bytes(b"x")
    assert launch.main(["verify", str(folder)]) == 2
    assert "payload.bin is not the file that the manifest describes" in capsys.readouterr().err


def with_other_sweep(run: RunFolder, **changes: Any) -> None:
    """Change what the sweep of a run says."""
    manifest = json.loads((run.path / "run.json").read_text())
    manifest["sweep"] |= changes
    (run.path / "run.json").write_text(json.dumps(manifest))


def test_a_missing_or_another_base_model_says_nothing_about_programs(
    run: RunFolder,
    capsys: pytest.CaptureFixture[str],
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, message in (
        (tmp_path / "nowhere", "base model llama: there is no folder"),
        (empty, f"base model llama: {empty} can't be loaded: "),
        (model_folders["qwen2"], f"base model llama: {model_folders['qwen2']} has the digest "),
    ):
        with_other_sweep(run, base_models=[{"regime": "llama", "path": str(folder)}])
        assert launch.main(["verify", str(run.path)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert rows_of(run.ledger, "verifications") == []
        assert [verified for _, verified in front(run)] == [None, None]


def test_data_that_is_gone_is_named(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    task = {"kind": "jsonl", "name": "x", "data": "gone.jsonl", "metric": "exact_match"}
    with_other_sweep(run, task=task)
    assert launch.main(["verify", str(run.path)]) == 2
    assert "gone.jsonl: No such file" in capsys.readouterr().err


def test_a_damaged_program_is_named_and_its_rung_done_again(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, prompted = CANDIDATES
    path = run.path / "ledger" / "programs" / f"{prompted.id}-r0.a1.parquet"
    content = bytearray(path.read_bytes())
    content[content.index(b"import")] ^= 1
    path.write_bytes(content)
    assert launch.main(["verify", str(run.path)]) == 1
    error = capsys.readouterr().err
    assert f"{path}: not a part of a ledger" in error
    assert f"kilobit resume {run.path}" in error
    assert "Traceback" not in error
    # It says nothing about the program.
    assert prompted.id not in {row["candidate"] for row in rows_of(run.ledger, "verifications")}
    with reopen_run(run.path) as again:
        assert again.left_out == (f"{path}: the file is gone",)
        assert [row["candidate"] for row in rows_of(again.ledger, "rungs")] == [bare.id]


@pytest.mark.parametrize("command", ["verify", "certify", "resume"])
def test_what_was_left_out_is_said_by_whoever_begins(
    run: RunFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    decisions = [{"candidate": c.id, "rung": 0, "decision": "finish"} for c in CANDIDATES]
    write_rows(run.ledger, "decisions", "all", decisions)
    (run.path / "ledger" / "predictions" / f"{CANDIDATES[1].id}-r0.a1.parquet").unlink()
    monkeypatch.setattr("kilobit.cluster.driver.check.check_sweep", stop)
    assert launch.main([command, str(run.path)]) == (2 if command == "resume" else 1)
    shown = capsys.readouterr().out
    assert f"damaged, will be recomputed: {run.path}/ledger/predictions/" in shown
    assert command == "resume" or f"kilobit resume {run.path}" in shown
    assert rows_of(run.ledger, "openings") == []


def stop(*_: Any, **__: Any) -> None:
    raise InputError("no further")
