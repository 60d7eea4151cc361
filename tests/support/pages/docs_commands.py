"""Commands that pages show, run in a folder, and what they print compared with the page."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

from tests.support.pages.docs_blocks import Block

# Pages whose blocks are changes to the code; they are made in a copy by tests/test_docs_adding.py.
ADDING = ("docs/add-task.md", "docs/add-method.md", "docs/add-codec.md")


def in_path(folder: Path, **scripts: str) -> None:
    """Make commands of these names in `folder / "bin"`: what Python is given before arguments."""
    (folder / "bin").mkdir()
    for name, words in scripts.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n', "utf-8")
        script.chmod(0o755)


def shell(folder: Path, command: str) -> str:
    """Return what a command prints in a folder."""
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": "100", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with what it is said to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        last = next(i for i, line in enumerate(lines) if not line.rstrip("\n").endswith("\\"))
        yield "".join(lines[: last + 1]), "".join(lines[last + 1 :])


def compare(shown: str, printed: str) -> None:
    """Compare what a page shows with what was printed; `...` stands for anything."""
    checker = OutputChecker()
    # Tables end in spaces, pages don't.
    plain = "\n".join(line.rstrip() for line in printed.splitlines()) + "\n"
    same = checker.check_output(shown, plain, ELLIPSIS | NORMALIZE_WHITESPACE)
    assert same, f"the page shows\n{shown}\nand it prints\n{plain}"
