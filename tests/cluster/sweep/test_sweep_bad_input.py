"""Sweep files and overrides that are refused: exit status 2 and one message that says where."""

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
        "unknown key 'families.promt'. Did you mean 'prompt'? Known here: coordinates, data, ",
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
    (
        {"workers": {"gpus": 1.5}},
        "gpus",
        "workers.gpus: a share of one GPU below 1, or a whole number of GPUs, can be reserved "
        "(found 1.5)",
    ),
    ({"length": "script"}, "length", "length: Input should be 'program', 'payload' or 'net'"),
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
    path.write_text("seed: &a 1\nname: *a\n")
    assert "line 2: YAML aliases (*a) are not allowed" in fails(capsys, "run", str(path))
    path.write_text("name: x\n2001: 3\n")
    message = "line 2: the key 2001 is not text: write it in quotes"
    assert message in fails(capsys, "run", str(path))
    for digits in ("0x" + "f" * 6000, "9" * 6000):
        path.write_text(f"name: x\nseed: {digits}\n")
        message = fails(capsys, "run", str(path))
        assert "line 2: not valid YAML: a whole number has at most 100 digits" in message
    path.write_text("[" * 5000)
    assert "nested more than 50 levels deep" in fails(capsys, "run", str(path))
    path.write_bytes(b"name: a\0b\n")
    assert "not valid YAML" in fails(capsys, "run", str(path))
    path.write_bytes(b"name: \xe4\n")
    assert "s.yaml: " in fails(capsys, "run", str(path))
    assert f"{tmp_path}: not a regular file" in fails(capsys, "run", str(tmp_path))
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
        ("name.x=1", "'name' is a value"),
        (".seed=1", "'.seed=1': an override is written key=value"),
        ("seed=2026-13-45", "seed: Input should be a valid integer (found '2026-13-45')"),
        ("seed=" + "9" * 6000, "the value is not valid YAML"),
        ("rungs={2001: 3}", "'rungs={2001: 3}': the key 2001 is not text: write it in quotes"),
    ],
)
def test_a_bad_override_is_named(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, override: str, message: str
) -> None:
    path = str(write_sweep())
    assert message in fails(capsys, "run", path, "--dry-run", override)
