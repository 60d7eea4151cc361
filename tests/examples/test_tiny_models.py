"""The script that made the embedded models makes them again."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TINY = REPOSITORY / "examples" / "tiny"


@pytest.fixture
def tiny_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TINY))


def test_the_script_gives_the_shipped_tokenizer_and_config(
    tiny_scripts: None, tmp_path: Path
) -> None:
    from make_models import make_config, make_tokenizer

    tokenizer = make_tokenizer(2026)
    tokenizer.save_pretrained(tmp_path)
    make_config(tokenizer).save_pretrained(tmp_path)
    for regime in ("random", "pretrained", "posttrained"):
        for name in ("tokenizer.json", "config.json"):
            if (regime, name) in {("pretrained", "config.json"), ("posttrained", "config.json")}:
                continue  # these say float16 besides
            assert (tmp_path / name).read_bytes() == (TINY / regime / name).read_bytes()


@pytest.mark.parametrize(
    ("number", "words"), [(0, "zero"), (13, "thirteen"), (20, "twenty"), (58, "fifty eight")]
)
def test_numbers_in_words(tiny_scripts: None, number: int, words: str) -> None:
    from sheets import in_words

    assert in_words(number) == words


def test_sheets_hold_no_item_of_search_or_sealed_and_nothing_novel(tiny_scripts: None) -> None:
    import re

    from sheets import posttraining_sheet, pretraining_sheet

    from kilobit.evaluators.tasks.miniature.catalogue import split_of
    from kilobit.evaluators.tasks.miniature.grammar import NOVEL_NOUNS
    from kilobit.search.streams import stream

    rng = stream("check")
    text = "".join(
        make(rng) for _ in range(2000) for make in (pretraining_sheet, posttraining_sheet)
    )
    questions = re.findall(r"^(?:Q|In|Task): (.*)$", text, re.MULTILINE)
    assert len(questions) > 5000
    assert {split_of(question) for question in questions} == {"train"}
    words = set(re.findall(r"\w+", text))
    assert not words & {noun for noun, _, _ in NOVEL_NOUNS}
    assert not words & {"twice as many", "equally", "exclamation"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        argv = ["--out", str(tmp_path / name), "--tokens", "200000", "--post-tokens", "50000"]
        subprocess.run(
            [sys.executable, str(TINY / "make_models.py"), *argv],
            check=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        files = sorted((tmp_path / name).rglob("*.safetensors"))
        assert len(files) == 2
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[0][1]
