"""Sweep files, models and data that `run` refuses: exit status 2 and one clear message."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli.failing import fails, line_of

Write = Callable[..., Path]


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
