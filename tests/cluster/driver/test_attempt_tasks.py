"""Whole searches on tasks of the field, with the embedded model."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.reference_suites import by_the_command
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.tasks.published.translation import Wmt14Task, load_wmt14
from tests.conftest import REPOSITORY
from tests.support.rows import rows_of
from tests.support.tasks.records import write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]
EXAMPLE = REPOSITORY / "examples" / "wmt14_tiny.yaml"


def launch(*argv: str) -> str:
    """Run the command line and return what it prints; a shared machine may be slow."""
    command = [sys.executable, str(REPOSITORY / "launch.py"), *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outputs_of(ledger: Ledger, candidate: str, split: str) -> dict[str, str]:
    rows = [r for r in rows_of(ledger, "predictions") if r["candidate"] == candidate]
    last = max((r["rung"] for r in rows if r["split"] == "search"), default=None)
    return {
        row["example"]: row["output"]
        for row in rows
        if row["split"] == split and row["rung"] == (last if split == "search" else None)
    }


@pytest.mark.parametrize("data", ["shipped", "published"])
def test_translation_is_searched_verified_and_certified_by_corpus_bleu(
    tmp_path: Path, request: pytest.FixtureRequest, data: str
) -> None:
    config = yaml.safe_load(EXAMPLE.read_text("utf-8"))["task"]
    changes = ["families.prompt.candidates=2", "families.lora.candidates=1", "rungs.count=2"]
    if data == "published":
        sample = request.getfixturevalue("published") / "wmt-sample"
        for split, name in (("train", "train"), ("sealed", "val")):
            for language, side in (("en", "src"), ("de", "tgt")):
                config[split]["texts"][language] = str(sample / f"{side}-{name}.txt")
                changes.append(f"task.{split}.texts.{language}={sample}/{side}-{name}.txt")
    out = tmp_path / "run"
    launch("run", str(EXAMPLE), "--out", str(out), "certify=true", *changes)
    ledger = Ledger(out / "ledger")
    lines = [json.loads(line) for line in launch("front", str(out), "--json").splitlines()]
    assert lines
    splits = load_wmt14(Wmt14Task.model_validate(config), EXAMPLE.parent).splits
    for line in lines:
        assert line["verified"]
        for split, examples in (("search", splits.search), ("sealed", splits.sealed)):
            outputs = outputs_of(ledger, line["candidate"], split)
            scored = [example for example in examples if example.id in outputs]
            texts = [outputs[example.id].split("\n")[0].strip() for example in scored]
            expected = by_the_command(tmp_path, texts, [example.target for example in scored])
            if split == "search":
                assert 100 * line["score"] == pytest.approx(expected, rel=1e-12)
                continue
            (bounds,) = [
                row["score"]
                for row in rows_of(ledger, "certificates")
                if row["candidate"] == line["candidate"]
            ]
            assert 100 * bounds == pytest.approx(expected, rel=1e-12)


def test_what_a_metric_says_besides_is_in_the_ledger(tmp_path: Path) -> None:
    rng = random.Random(0)
    records: list[dict[str, Any]] = [
        {
            "problem": f"Tom has {i} apples and gets {(more := rng.randint(1, 9))}. How many now?",
            "level": f"Level {i % 5 + 1}",
            "type": "Algebra",
            "solution": f"\\boxed{{{i + more}}}",
        }
        for i in range(120)
    ]
    write_jsonl(tmp_path / "train.jsonl", records[:90])
    write_jsonl(tmp_path / "test.jsonl", records[90:])
    sweep = {
        "name": "math-tiny",
        "task": {
            "kind": "math",
            "train": {"path": "train.jsonl"},
            "sealed": {"path": "test.jsonl"},
            "search_share": 0.3,
            "question": "Q: {input}\nA:",
            "answer": " {target}\n",
            "stop": ["\n"],
            "max_new_tokens": 12,
        },
        "base_models": [
            {"regime": "pretrained", "path": str(REPOSITORY / "examples/tiny/pretrained")}
        ],
        "families": {"prompt": {"candidates": 2, "demonstrations": [1]}},
        "rungs": {"examples": 8, "train_steps": 1, "eta": 2, "count": 2},
    }
    path, out = tmp_path / "sweep.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(sweep))
    launch("run", str(path), "--out", str(out), "certify=true")
    rows = rows_of(Ledger(out / "ledger"), "predictions")
    assert {row["split"] for row in rows} == {"search", "sealed"}
    levels = {
        split: {json.loads(r["columns"])["level"] for r in rows if r["split"] == split}
        for split in ("search", "sealed")
    }
    assert levels == {"search": set("12345"), "sealed": set("12345")}
