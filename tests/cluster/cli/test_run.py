"""The command line on bad input: each ends in exit status 2 with one clear message."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.driver.attempt import StoppedError
from kilobit.cluster.runs.folder import create_run, open_run, reopen_run
from kilobit.cluster.runs.lock import lock_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.fencing import SupersededError
from tests.conftest import REPOSITORY

Write = Callable[..., Path]


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must end in exit status 2 and return its message."""
    assert launch.main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("kilobit: ")
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) == 1
    return message.removeprefix("kilobit: ")


def line_of(path: Path, text: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


FAMILIES: dict[str, Any] = {"prompt": {"candidates": 3}}
BAD_SWEEPS: list[tuple[dict[str, Any], str, str]] = [
    ({"budgte": {}}, "budgte", "unknown key 'budgte'. Did you mean 'budget'?"),
    (
        {"families": {"promt": {"candidates": 3}}},
        "promt",
        "unknown key 'families.promt'. Did you mean 'prompt'? Known here: data, fourierft, ia3, ",
    ),
    ({"seed": "three"}, "seed", "seed: Input should be a valid integer (found 'three')"),
    ({"rungs": {"eta": True}}, "eta", "rungs.eta: Input should be a valid integer (found True)"),
    ({"targets": [1.5]}, "1.5", "targets.0: Input should be less than or equal to 1 (found 1.5)"),
    ({"name": "a/b"}, "name: a/b", "name: String should match pattern"),
    ({"families": {}}, "families", "no candidates: give at least one family `candidates` above 0"),
    (
        {"families": {"prompt": {"candidates": 0}}},
        "families",
        "no candidates: give at least one family `candidates` above 0",
    ),
    ({"budget": {"candidates": 0}}, "candidates: 0", "greater than or equal to 1 (found 0)"),
    (
        {"families": {"prompt": {"candidates": 3, "postprocess": [["shout"]]}}},
        "shout",
        "families.prompt.postprocess.0.0: there is no step 'shout'; steps are last_number, ",
    ),
    (
        {"families": {"prompt": {"candidates": 3, "postprocess": [["find:("]]}}},
        "find:(",
        "families.prompt.postprocess.0.0: find: '(' is not a pattern that RE2 takes",
    ),
    (
        {"families": {"ia3": {"candidates": 3, "rank": [1]}}},
        "rank",
        "unknown key 'families.ia3.rank'",
    ),
    (
        {"families": {"trainable_tokens": {"candidates": 3}}},
        "trainable_tokens",
        "'families.trainable_tokens.tokens' is missing",
    ),
    ({"length": "script"}, "length", "length: Input should be 'program' or 'payload'"),
    ({"rate_search": {"keep": [7.5]}}, "7.5", "rate_search.keep.0: Input should be less than"),
    (
        {"task": {"kind": "gsm9k"}},
        "task",
        "task.kind must be one of 'miniature', 'jsonl', 'dataset'",
    ),
    ({"proposer": {"kind": "evolve"}}, "proposer", "proposer.kind must be one of 'random', 'grid'"),
    ({"proposer": {"kind": "tpe", "fersh": 3}}, "fersh", "proposer.fersh'. Did you mean 'fresh'?"),
    ({"proposer": {"kind": "grid", "points": 0}}, "points", "proposer.points: Input should be"),
    (
        {"proposer": {"kind": "evolution"}},
        "name",
        "proposer: evolution never ends by itself: give budget.candidates or budget.seconds",
    ),
    ({"base_models": []}, "base_models", "base_models: List should have at least 1 item"),
    (
        {"base_models": [{"regime": "../../../../evil", "path": "."}]},
        "evil",
        "base_models.0.regime: a label begins with a letter or digit and has at most 64 letters, "
        "digits, points, dashes and underscores (found '../../../../evil')",
    ),
    (
        {"base_models": [{"regime": "r", "name": "a\x1b[31m", "path": "."}]},
        "31m",
        "base_models.0.name: a label begins with a letter or digit",
    ),
    (
        {
            "base_models": [
                {"regime": "r", "path": ".", "weights": "random", "seed": 18446744073709551616}
            ]
        },
        "1844",
        "base_models.0.seed: Input should be less than 18446744073709551616",
    ),
    ({"base_models": [{"regime": "r"}]}, "regime: r", "give either `path`"),
    (
        {"base_models": [{"regime": "r", "hub": "no/such model!"}]},
        "such model",
        "base_models.0.hub: String should match pattern",
    ),
    (
        {"families": {"prompt": {"candidates": 10**12}}},
        "candidates: 1000",
        "less than or equal to 100000",
    ),
]


@pytest.mark.parametrize(("changes", "place", "message"), BAD_SWEEPS)
def test_a_bad_sweep_file_names_file_line_field_and_what_is_allowed(
    capsys: pytest.CaptureFixture[str],
    write_sweep: Write,
    changes: dict[str, Any],
    place: str,
    message: str,
) -> None:
    path = write_sweep(**changes)
    found = fails(capsys, "run", str(path), "--dry-run")
    assert found.startswith(f"{path}, line {line_of(path, place)}: ")
    assert message in found


def test_yaml_that_is_broken_or_repeats_a_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: x\nseed: [1\n")
    assert f"{path}, line 3: not valid YAML" in fails(capsys, "run", str(path))
    path.write_text("name: x\nseed: 1\nseed: 2\n")
    assert f"{path}, line 3: the key 'seed' is given twice" in fails(capsys, "run", str(path))
    path.write_text("name: 2020-13-45\n")
    assert "not valid YAML: month must be in 1..12" in fails(capsys, "run", str(path))
    path.write_text("seed: &a 1\nname: *a\n")
    assert "line 2: YAML aliases (*a) are not allowed" in fails(capsys, "run", str(path))
    path.write_text("name: x\n2001-01-01: 3\n")
    message = "line 2: the key 2001-01-01 is not text: write it in quotes"
    assert message in fails(capsys, "run", str(path))
    for digits in ("0x" + "f" * 6000, "9" * 6000):
        path.write_text(f"name: x\nseed: {digits}\n")
        message = fails(capsys, "run", str(path))
        assert "line 2: not valid YAML: a whole number has at most 100 digits" in message
    path.write_text("[" * 5000)
    assert "not valid YAML" in fails(capsys, "run", str(path))
    path.write_bytes(b"name: a\0b\n")
    assert "not valid YAML" in fails(capsys, "run", str(path))
    path.write_bytes(b"name: \xe4\n")
    assert "s.yaml: " in fails(capsys, "run", str(path))
    assert f"{tmp_path}: Is a directory" in fails(capsys, "run", str(tmp_path))
    path.write_text("- 1\n")
    assert "a YAML mapping is needed, found list" in fails(capsys, "run", str(path))
    missing = str(tmp_path / "none.yaml")
    assert "none.yaml: No such file" in fails(capsys, "run", missing)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rungs.eta=x", "command line: rungs.eta: Input should be a valid integer (found 'x')"),
        ("rung.eta=3", "command line: unknown key 'rung'. Did you mean 'rungs'?"),
        ("eta", "'eta': an override is written key=value"),
        ("name.x=1", "'name' is not a mapping"),
        (".seed=1", "'.seed=1': an override is written key=value"),
        ("seed=2026-13-45", "'seed=2026-13-45': the value is not valid YAML"),
        ("seed=" + "9" * 6000, "the value is not valid YAML"),
        ("rungs={2001-01-01: 3}", "'rungs={2001-01-01: 3}': a key of the value is not text"),
    ],
)
def test_a_bad_override_is_named(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, override: str, message: str
) -> None:
    path = str(write_sweep())
    assert message in fails(capsys, "run", path, "--dry-run", override)


def lora(**changes: Any) -> dict[str, Any]:
    space = {"candidates": 2, "rank": [1], "target_modules": [["q_proj"]], **changes}
    return {"families": {"lora": space}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lora(rank=[64]),
            "families.lora.rank: 64 is larger than q_proj of .* whose smaller side is 32",
        ),
        (lora(target_modules=[["c_attn"]]), "has no module 'c_attn'; it has .*down_proj.*q_proj"),
        (lora(layers=[[2]]), "there is no layer 2; .* has layers 0 to 1"),
        (
            {"families": {"weights": {"candidates": 2, "target_modules": [["nosuch"]]}}},
            "families.weights.target_modules: no weight of .* is called 'nosuch'",
        ),
        (
            {"families": {"ln_tuning": {"candidates": 2, "target_modules": [["q_proj"]]}}},
            "has no module 'q_proj'; it has input_layernorm, norm, post_attention_layernorm",
        ),
        (
            {"families": {"trainable_tokens": {"candidates": 2, "tokens": [[1, 400]]}}},
            "families.trainable_tokens.tokens: there is no token 400; .* has 400",
        ),
        (lora(chat=[True]), "families.lora.chat: the tokenizer of .* has no chat template"),
        (lora(max_new_tokens=[13]), "13 is more than the task numbers allows"),
        (lora(demonstrations=[600]), "600 are more than the train split has"),
        (
            {"rungs": {"examples": 100, "eta": 3, "count": 3}},
            "the last rung scores 900 examples .* the search split of numbers has 512",
        ),
    ],
)
def test_what_does_not_fit_model_or_task_is_refused(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, changes: dict[str, Any], message: str
) -> None:
    found = fails(capsys, "run", str(write_sweep(**changes)), "--dry-run")

    assert re.search(message, found), found


def test_a_model_that_is_missing_or_incomplete_is_named(
    capsys: pytest.CaptureFixture[str],
    write_sweep: Write,
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    def message(folder: Path, **changes: Any) -> str:
        models = [{"regime": "r", "path": str(folder), **changes}]
        return fails(capsys, "run", str(write_sweep(base_models=models)), "--dry-run")

    assert "base_models.0.path: there is no folder" in message(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(model_folders["llama"], broken)
    for file in broken.glob("tokenizer*"):
        file.unlink()
    assert "base_models.0: no usable tokenizer in" in message(broken)
    (broken / "model.safetensors").unlink()
    assert "holds no weights (*.safetensors)" in message(broken)
    (broken / "config.json").unlink()
    assert "holds no model: config.json is missing" in message(broken)
    assert "this machine has no GPU" in message(model_folders["llama"], device="cuda:7")


def test_bad_data_is_named_with_file_and_line(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, tmp_path: Path
) -> None:
    task = {"kind": "jsonl", "name": "mine", "data": "d.jsonl", "metric": "exact_match"}
    data = tmp_path / "d.jsonl"
    path = str(write_sweep(task=task))
    assert f"{data}: No such file" in fails(capsys, "run", path)
    data.write_text("")
    assert f"{data}: the file holds no examples" in fails(capsys, "run", path)
    lines = [json.dumps({"input": str(i), "target": "x"}) for i in range(30)]
    lines[16] = '{"input": "x", '
    data.write_text("\n".join(lines))
    assert f"{data}, line 17: not JSON" in fails(capsys, "run", path)
    files = dict.fromkeys(("train", "search", "sealed"), "d.jsonl")
    data.write_text("\n".join(lines[:16]))
    del task["data"]
    path = str(write_sweep(task={**task, "files": files}))
    assert "is in both the train and the search split" in fails(capsys, "run", path)


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
    capsys: pytest.CaptureFixture[str], begun: Path, write_sweep: Write
) -> None:
    with reopen_run(begun) as run:
        assert run.attempt == 2
        for command in ("resume", "verify"):
            message = fails(capsys, command, str(begun))
            assert f"{begun} is locked by attempt 2 on " in message
            assert f"process {os.getpid()}" in message
            assert f"kilobit resume {begun} --take-over" in message
        # Looking is free.
        assert launch.main(["status", str(begun)]) == 0
        assert "locked by attempt 2 on " in capsys.readouterr().out
        with reopen_run(begun, take_over=True) as other:
            assert other.attempt == 3
            with pytest.raises(SupersededError):
                run.ledger.write("rungs", "x", [{"candidate": "x"}])
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
        run.ledger.write("rungs", "x", [{"candidate": "x"}])
    assert len(open_run(out).ledger.rows("rungs")) == 1


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
    assert "does not fit on this machine: workers.gpus: 1 workers" in capsys.readouterr().out
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
    assert (
        f"cache: {tmp_path}/shared/cache can't be written: {tmp_path}/shared is no fold" in message
    )


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
    assert launch.main(["run", str(REPOSITORY / "examples" / example), "--dry-run"]) == 0
    assert "The sweep file is valid; nothing was started." in capsys.readouterr().out


def test_help_teaches_and_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import launch, sys\n"
        "try: launch.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'ray', 'torch', 'transformers', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert "kilobit run examples/quickstart.yaml" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    status = launch.main(["doctor"])
    shown = capsys.readouterr().out
    assert "transformers" in shown
    assert "starts," in shown
    # What is red depends on the machine; the exit status says the same as the marks.
    assert status == (1 if "!!" in shown else 0)
