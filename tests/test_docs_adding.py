"""The pages that say how to add something are followed to the letter, in a copy of the project.

Their changes are made and the tests that they write are run every time; the commands that they
show, with all tests that a new method or codec has to pass, take minutes:

    pytest -m slow tests/test_docs_adding.py
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.pages.docs_blocks import Block, blocks
from tests.support.pages.docs_commands import ADDING, commands, compare, in_path, shell

COPIED = ("cluster", "evaluators", "kilobit", "search", "tests", "launch.py", "pyproject.toml")


def a_copy(folder: Path) -> Path:
    for name in COPIED:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name, symlinks=True)
        else:
            shutil.copy(REPOSITORY / name, folder / name)
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    in_path(folder, kilobit=f"{folder}/launch.py", pytest="-m pytest -p no:cacheprovider")
    return folder


def change(folder: Path, block: Block) -> None:
    """Make the changes of a `diff` block: each hunk has its place where its old lines stand."""
    _, *files = re.split(r"^--- a/.*\n\+\+\+ b/(.*)\n", block.text, flags=re.MULTILINE)
    assert files, block.name
    for name, hunks in zip(files[::2], files[1::2], strict=True):
        text = (folder / name).read_text("utf-8")
        for hunk in re.split(r"^@@.*\n", hunks, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if not line.startswith("+"))
            new = "".join(line[1:] for line in lines if not line.startswith("-"))
            assert text.count(old) == 1, f"{block.name}: in {name} this stands not once:\n{old}"
            text = text.replace(old, new)
        (folder / name).write_text(text, "utf-8")


def follow(folder: Path, page: str) -> list[Path]:
    """Make the changes of a page and return the files that it adds."""
    made = []
    for block in (b for b in blocks("diff", "python", "yaml") if b.page == page):
        if block.language == "diff":
            change(folder, block)
            continue
        assert block.file, f"{block.name}: its first line has to be `# path`"
        assert not (folder / block.file).exists()
        (folder / block.file).write_text(block.text, "utf-8")
        made.append(Path(block.file))
    return made


def test_what_the_pages_add_works_together(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    made = [file for page in ADDING for file in follow(folder, page)]
    sweeps = [str(file) for file in made if file.suffix == ".yaml"]
    assert len(sweeps) == 2
    code = (
        "from pathlib import Path\n"
        "from kilobit.cluster.sweep.sweep import load_sweep\n"
        "from kilobit.search.adapter_methods import METHODS\n"
        "from kilobit.search.programs.text import compress\n"
        f"[load_sweep(Path(name)) for name in {sweeps}]\n"
        "print('road' in METHODS, 'bz2' in compress(b'a'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    )
    assert done.stdout == "True True\n"
    tests = [str(file) for file in made if file.name.startswith("test_")]
    assert len(tests) == 4
    # The conftest of the project loads torch, which these tests do without.
    shown = shell(folder, f"pytest -q --noconftest {' '.join(tests)}")
    assert "5 passed" in shown


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", ADDING)
def test_the_commands_of_a_page_print_what_it_shows(page: str, tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    follow(folder, page)
    found = [pair for b in blocks("console") if b.page == page for pair in commands(b)]
    assert found
    for command, shown in found:
        compare(shown, shell(folder, command))
