import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import DamagedError
from kilobit.evaluators.proof import program_files
from kilobit.evaluators.proof.program_files import (
    ProgramError,
    read_examples,
    read_folder,
    read_program,
    read_train,
    write_folder,
    write_program,
)
from kilobit.search.programs.numbers import encode_numbers
from kilobit.search.programs.program import WAYS, Program, build
from tests.support.recipes import BARE, RECIPES, with_adapter, with_prompt
from tests.support.rows import rows_of


@pytest.fixture
def program() -> Program:
    integers = [np.ones(shape, np.int32) for shape in ((2, 32), (2, 48))]
    numbers = encode_numbers(100, integers, WAYS[1])
    assert numbers is not None
    recipe = with_adapter(with_prompt(BARE, "stored", 4), "lora", WAYS[1])
    return build(recipe, b"Hi:\n" + numbers)


@pytest.fixture
def folder(program: Program, tmp_path: Path) -> Path:
    write_folder(tmp_path / "p", program, {"task": "t", "score": 0.5})
    return tmp_path / "p"


def test_a_folder_is_read_as_it_was_written(program: Program, folder: Path) -> None:
    found, manifest, ours = read_folder(folder)
    assert (found, ours) == (program, True)
    assert (manifest["task"], manifest["program_bits"]) == ("t", program.program_bits)
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest.json", "payload.bin", "program.py", "requirements.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("nothing", ()),
        ("lora", ("peft",)),
        ("prompt zstd", ("zstandard",)),
        ("steps", ("google-re2",)),
        ("spread", ("accelerate",)),
    ],
)
def test_requirements_are_what_the_program_imports(
    recipe: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    spread = BARE.model_copy(update={"dtype": "bfloat16", "spread": True})
    program = build((RECIPES | {"spread": spread})[recipe], b"")
    write_folder(tmp_path, program, {})
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    unpacks = ("brotli",) if b"brotli" in program.script else ()
    assert [line.partition("==")[0] for line in lines] == sorted(
        {"torch", "transformers", *more, *unpacks}
    )
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in lines)


@pytest.mark.parametrize("name", RECIPES)
def test_every_script_is_known_again(name: str, tmp_path: Path) -> None:
    program = build(RECIPES[name], b"")
    write_folder(tmp_path, program, {})
    assert read_folder(tmp_path) == (
        program,
        json.loads((tmp_path / "manifest.json").read_text()),
        True,
    )


def refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ProgramError) as found:
        read_folder(folder)
    assert str(folder) in str(found.value)
    assert name in str(found.value)
    assert message in str(found.value)


@pytest.mark.parametrize("name", ["program.py", "payload.bin"])
@pytest.mark.parametrize("change", [lambda b: b + b"\n", lambda b: b[:-1], lambda b: b""])
def test_a_changed_file_is_named(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    refused(folder, name, "is not the file that the manifest describes")


def test_every_flipped_bit_of_a_payload_is_seen(folder: Path) -> None:
    payload = (folder / "payload.bin").read_bytes()
    for at in range(len(payload)):
        changed = bytearray(payload)
        changed[at] ^= 1 << at % 8
        (folder / "payload.bin").write_bytes(changed)
        refused(folder, "payload.bin", "is not the file")


@pytest.mark.parametrize("name", ["program.py", "payload.bin", "manifest.json"])
def test_a_missing_or_huge_file_is_named(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(program_files._MAX_BYTES, name, 3)
    refused(folder, name, "larger than the allowed 3 bytes")
    (folder / name).unlink()
    refused(folder, name, "holds no program")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ("[]", "format None, this version reads 1"),
        ("{}", "format None, this version reads 1"),
        ('{"format": 2}', "format 2, this version reads 1"),
        ('{"format": 1}', "is not the file that the manifest describes"),
        ('{"format": 1, "sha256": []}', "is not the file that the manifest describes"),
    ],
)
def test_a_manifest_that_says_nothing_of_use_is_named(
    folder: Path, text: str, message: str
) -> None:
    (folder / "manifest.json").write_text(text)
    name = "program.py" if "not the file" in message else "manifest.json"
    refused(folder, name, message)


def test_a_manifest_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b'{"format": "\xff"}')
    refused(folder, "manifest.json", "is not JSON")


def changed_manifest(folder: Path, **recipe: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"].update(recipe)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "recipe.version: Input should be 1"),
        ({"batch_size": 0}, "recipe.batch_size: Input should be greater than or equal to 1"),
        ({"batch_size": "3"}, "recipe.batch_size: Input should be a valid integer"),
        ({"dtype": "int8"}, "recipe.dtype: Input should be 'float32'"),
        ({"code": "print()"}, "recipe.code: Extra inputs are not permitted"),
        ({"prompt": {"codec": "zip", "num_bytes": 4}}, "recipe.prompt.codec: Input should be"),
        (
            {"adapter": {"method": "magic"}},
            "recipe.adapter.method: there is no method 'magic'; there are lora, ",
        ),
    ],
)
def test_a_recipe_that_is_none_is_named_by_its_field(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    changed_manifest(folder, **change)
    refused(folder, "manifest.json", message)


def test_a_manifest_without_a_recipe_is_named(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["recipe"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder, "manifest.json", "recipe")


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 7},
        {"question": "{input} else"},
        {"postprocess": ["shout"]},
        {"prompt": {"codec": "model", "num_bytes": 4}},
        {"prompt": {"codec": "model", "num_bytes": 4, "head": "ffffffff"}, "start_token": 1},
        {"prompt": {"codec": "model", "num_bytes": 4, "head": "00010000"}},
    ],
)
def test_a_script_that_is_not_what_its_recipe_makes_is_code_from_elsewhere(
    folder: Path, change: dict[str, Any]
) -> None:
    changed_manifest(folder, **change)
    assert read_folder(folder)[2] is False


def test_arguments_that_are_no_python_are_no_script_of_ours(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["adapter"]["arguments"]["a b"] = 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_folder(folder)[2] is False


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"input": "a", "output": "b"}\n{"input": "a"}', "line 2: not an object with input"),
        ('{"input": "a", "output": "b"}\n[]', "line 2: a JSON object is needed"),
        ("[" * 100_000, "line 1: not JSON"),
    ],
)
def test_examples_that_are_none_are_named_by_their_line(
    folder: Path, lines: str, message: str
) -> None:
    with pytest.raises(ProgramError, match=r"examples\.jsonl can't be read"):
        read_examples(folder)
    (folder / "examples.jsonl").write_text(lines + "\n")
    with pytest.raises(ProgramError, match=rf"examples\.jsonl, {message}"):
        read_examples(folder)


@pytest.mark.parametrize(
    "name", ["manifest.json", "program.py", "payload.bin", "examples.jsonl", "train.jsonl"]
)
@pytest.mark.parametrize("kind", ["fifo", "zero", "folder"])
@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_read(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(folder / name)
    elif kind == "zero":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).mkdir()
    readers = {"examples.jsonl": read_examples, "train.jsonl": read_train}
    with pytest.raises(ProgramError, match=rf"{name}: not a regular file"):
        readers.get(name, read_folder)(folder)


def test_no_examples_are_an_error(folder: Path) -> None:
    (folder / "examples.jsonl").write_text("")
    with pytest.raises(ProgramError, match=r"examples\.jsonl: the file holds no examples"):
        read_examples(folder)


@pytest.mark.parametrize("size", [10, (1 << 20) + 1])
def test_a_ledger_gives_a_program_back_whatever_its_size(tmp_path: Path, size: int) -> None:
    payload = np.random.default_rng(0).bytes(size)
    program = build(with_prompt(BARE, "stored", size), payload)
    ledger = Ledger(tmp_path, 1)
    write_program(ledger, "c-r0", "c", 0, program)
    assert read_program(ledger, "c-r0") == program
    (row,) = rows_of(ledger, "programs")
    own_file = tmp_path / "payloads" / f"{program.digest}.bin"
    assert (row["payload"] is None) is own_file.exists() is (size > 1 << 20)
    assert row["program_bits"] == program.program_bits
    with pytest.raises(DamagedError, match=r"nothing\.\*: the file is gone"):
        read_program(ledger, "nothing")
    if own_file.exists():
        own_file.write_bytes(payload[:-1])
        with pytest.raises(DamagedError, match=r"c-r0\.a1\.parquet: its payload in .* is damaged"):
            read_program(ledger, "c-r0")
        own_file.unlink()
        with pytest.raises(DamagedError, match=r"c-r0\.a1\.parquet: its payload in .* is gone"):
            read_program(ledger, "c-r0")
