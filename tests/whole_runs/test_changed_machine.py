"""A run is not resumed with another machine or other data; the message names what changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kilobit import launch
from kilobit.cluster.fleet.session import ray_session
from kilobit.evaluators.ledger.ledger import Ledger
from tests.support.rows import rows_of
from tests.support.tasks.records import write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def flip_a_bit(path: Path) -> None:
    tensors = load_file(path)
    tensors["model.norm.weight"].view(torch.int32)[0] ^= 1
    save_file(tensors, path, {"format": "pt"})


def replace(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text("utf-8") if path.exists() else ""
        assert old in text
        path.write_text(text.replace(old, new, 1) if old else new, "utf-8")

    return change


def swap_two_ids(path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[50:52]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(content), "utf-8")


# File, change, and the words that name it.
CHANGES: tuple[tuple[str, Callable[[Path], None], str], ...] = (
    ("model/model.safetensors", flip_a_bit, "its weights changed"),
    ("model/tokenizer.json", swap_two_ids, "its tokenizer changed"),
    ("model/config.json", replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'), "its config"),
    ("model/generation_config.json", replace("0", "1"), "its generation config changed"),
    ("model/chat_template.jinja", replace("", "{{ messages }}"), "its chat template and"),
    ("search.jsonl", replace("7 apples", "7 applez"), "the search split changed"),
    ("train.jsonl", replace("7 apples", "7 applez"), "the train split changed"),
)


def test_resume_is_refused_with_the_name_of_what_changed(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(model_folders["llama"], tmp_path / "model")
    for name in ("train", "search", "sealed"):
        records = [{"input": f"{name} {i}", "target": f"{i} apples"} for i in range(9)]
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    files = {name: f"{name}.jsonl" for name in ("train", "search", "sealed")}
    sweep = write_sweep(
        task={"kind": "jsonl", "name": "apples", "metric": "exact_match", "files": files},
        base_models=[{"regime": "llama", "path": "model"}],
        families={"prompt": {"candidates": 8, "demonstrations": [0, 1]}},
        rungs={"examples": 2, "train_steps": 1, "eta": 2, "count": 1},
    )
    out = tmp_path / "out"

    def rungs() -> list[dict[str, Any]]:
        return rows_of(Ledger(out / "ledger"), "rungs")

    def said(*words: str) -> tuple[int, str]:
        status = launch.main([*words])
        shown = capsys.readouterr()
        return status, " ".join(f"{shown.out} {shown.err}".split())

    # All attempts use one session of Ray.
    with ray_session():
        status, shown = said("run", str(sweep), "--out", str(out), "budget.candidates=1")
        assert status == 0, shown
        before = len(rungs())
        assert before
        for name, change, words in CHANGES:
            path, copy = tmp_path / name, tmp_path / "copy"
            shutil.copytree(path.parent, copy, ignore=shutil.ignore_patterns("out", "copy"))
            change(path)
            status, shown = said("resume", str(out), "budget.candidates=3")
            assert status in (1, 2), (name, shown)
            assert words in shown, (name, shown)
            shutil.copytree(copy, path.parent, dirs_exist_ok=True)
            if not (copy / path.name).exists():
                path.unlink()
            shutil.rmtree(copy)
            assert len(rungs()) == before
        status, shown = said("resume", str(out), "budget.candidates=2")
        assert status == 0, shown
    assert len(rungs()) > before
    assert len({(row["machine"], row["data"]) for row in rungs()}) == 1
