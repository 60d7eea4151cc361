"""The documentation is true: links lead somewhere, the reference is complete, and its code runs.

Commands that load a model are slow: `pytest -m slow tests/test_docs.py`.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from kilobit import launch
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.battery.config import Battery, load_battery
from kilobit.evaluators.judges.judges import load_judge
from kilobit.search.config_file import _Loader
from tests.conftest import REPOSITORY
from tests.support.pages.docs_blocks import BLOCKS, MARKDOWN, Block, blocks, output_of, without_code
from tests.support.pages.docs_commands import ADDING, commands, compare, in_path, shell

sys.path.insert(0, str(REPOSITORY / "docs"))
import make_leaderboard
import make_reference

sys.path.pop(0)
HANDLED = {"bash", "console", "diff", "json", "python", "sql", "text", "yaml"}
# How many blocks of a page are not run. Whoever adds one says so here too.
NOT_RUN = {"docs/tutorial.md": 3}
# The other commands in `bash` blocks, and how it is seen that they could be right.
OTHERS = ("cd", "git", "kubectl", "mkdocs", "pre-commit", "source", "tests/")


def slugs(path: Path) -> set[str]:
    """Return the anchors that headings have on GitHub."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    found = set()
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        found.add(f"{words}-{seen[words]}" if seen[words] else words)
        seen[words] += 1
    return found


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text("utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.is_relative_to(REPOSITORY), target
        assert place.exists(), target
        assert not anchor or anchor in slugs(place), target


def test_the_site_builds_without_a_warning_and_asks_nobody_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    for page in (REPOSITORY / "docs").glob("*.md"):
        text = (tmp_path / page.with_suffix(".html").name).read_text("utf-8")
        fetched = re.findall(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="?([^" >]+)', text)
        assert fetched
        assert not [url for url in fetched if "//" in url]
    assert "name: own-data" in (tmp_path / "source/examples/own_data.yaml.txt").read_text("utf-8")


def test_the_leaderboard_is_that_of_its_data_and_its_commands_are_ours() -> None:
    found = make_leaderboard.entries()
    text = (REPOSITORY / "docs" / "leaderboard.md").read_text("utf-8")
    assert make_leaderboard.page(found) == text
    assert make_leaderboard.merged(found, found) == found
    assert all(one.lower >= one.target for one in found)
    for one in found:
        assert one.program_bits >= one.payload_bits
        launch.parse(one.command.split()[1:])


def test_a_run_is_added_to_the_leaderboard_where_it_is_shorter(workspace: Path) -> None:
    run = workspace / "runs" / "quickstart"
    found = make_leaderboard.of_runs([run], "kilobit run examples/quickstart.yaml", "0" * 12)
    bits = {(one.model, one.target): one.net_bits for one in found}
    assert bits == {("tiny/pretrained", 0.5): 896, ("tiny/posttrained", 0.5): 392}
    shorter = [replace(one, net_bits=one.net_bits - 1) for one in found]
    assert make_leaderboard.merged(shorter, found) == make_leaderboard.merged([], shorter)
    assert make_leaderboard.merged(found, shorter) == make_leaderboard.merged([], shorter)


@pytest.mark.parametrize("page", sorted(make_reference.PAGES))
def test_the_reference_is_up_to_date_and_says_what_everything_means(page: str) -> None:
    text = make_reference.PAGES[page]()
    assert (REPOSITORY / "docs" / page).read_text("utf-8") == text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert not [row for row in rows if re.search(r"\|\s*\|$", row)]


def test_every_example_is_described() -> None:
    folder = REPOSITORY / "examples"
    rows = re.findall(r"^\| \[(.+?)\]", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(
        path.name for kind in ("*.yaml", "*.ipynb") for path in folder.glob(kind)
    )


def test_every_block_is_run_or_says_why_not() -> None:
    assert {block.language for block in BLOCKS} <= HANDLED
    assert Counter(b.page for b in BLOCKS if b.reason) == NOT_RUN
    for block in blocks("diff"):
        assert block.page in ADDING, block.name


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the examples and a recorded quickstart with everything done to it."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "runs").mkdir(mode=0o700)
    with tarfile.open(REPOSITORY / "tests" / "recordings/quickstart.tar.xz") as archive:
        archive.extractall(folder / "runs", filter="data")
    manifest = folder / "runs" / "quickstart" / "run.json"
    run = json.loads(manifest.read_text("utf-8"))
    run["sweep_folder"] = str(REPOSITORY / "examples")
    manifest.write_text(json.dumps(run), "utf-8")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    in_path(folder, kilobit=f"{REPOSITORY}/launch.py", python="")
    (folder / "published.csv").write_text("accuracy,bits\n0.5,800\n", "utf-8")
    others = "--import published.csv --map score=accuracy,payload_bits=bits,task:=numbers"
    shell(folder, f"kilobit aggregate runs/quickstart {others} -o all")
    return folder


def consoles() -> Iterator[Any]:
    """Yield the console blocks; those that load torch or a model are slow."""
    for block in (b for b in blocks("console") if b.page not in ADDING):
        heavy = re.search(r"--dry-run|kilobit verify|program\.py \S", block.text)
        yield pytest.param(block, id=block.name, marks=[pytest.mark.slow] if heavy else [])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", list(consoles()))
def test_commands_print_what_the_page_shows(block: Block, workspace: Path) -> None:
    for command, shown in commands(block):
        compare(shown, shell(workspace, command))


def pythons() -> Iterator[Any]:
    """Yield the Python blocks; those that load a model or start Ray are slow."""
    heavy = re.compile(r"kilobit\.(run|load_program)\(|Tuner\(|\.(verify|certify|resume)\(")
    for block in (b for b in blocks("python") if b.page not in ADDING):
        slow = heavy.search(block.text)
        yield pytest.param(block, id=block.name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", list(pythons()))
def test_python_runs(block: Block, workspace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        capture_output=True,
        text=True,
        check=False,
        cwd=workspace,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    compare(output_of(block) or "...\n", done.stdout)


@pytest.mark.parametrize("block", blocks("sql"), ids=lambda b: b.name)
def test_sql_runs(block: Block, workspace: Path) -> None:
    with duckdb.connect() as connection:
        for table in (workspace / "runs" / "quickstart" / "ledger").iterdir():
            if any(table.glob("*.parquet")):
                connection.sql(f"CREATE VIEW {table.name} AS FROM '{table}/*.parquet'")
        for statement in filter(str.strip, block.text.split(";")):
            assert connection.sql(statement).fetchall()


def test_json_is_json() -> None:
    for block in blocks("json"):
        for line in block.text.splitlines():
            json.loads(line)


@pytest.mark.parametrize(
    "block", [b for b in blocks("yaml") if b.page not in ADDING], ids=lambda b: b.name
)
def test_yaml_is_a_sweep_file_or_a_part_of_one(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "block.yaml"
    path.write_text(block.text, "utf-8")
    keys = set(yaml.load(block.text, Loader=_Loader))
    if keys == {"judge"}:
        load_judge(path)
    elif keys <= set(Battery.model_fields):
        load_battery(path)
    else:
        path.write_text(rest_of_a_sweep(keys) + block.text, "utf-8")
        load_sweep(path)


def rest_of_a_sweep(keys: set[str]) -> str:
    """Return the quickstart without `keys`, or nothing where they are a whole sweep file."""
    if keys >= {"name", "task", "base_models", "families"}:
        return ""
    assert keys <= set(Sweep.model_fields)
    text = (REPOSITORY / "examples" / "quickstart.yaml").read_text("utf-8")
    whole: dict[str, Any] = yaml.load(text, Loader=_Loader)
    return "".join(f"{key}: {json.dumps(whole[key])}\n" for key in whole if key not in keys)


def kilobit_lines() -> Iterator[tuple[str, str]]:
    """Yield each command line of kilobit in a shell block or an indented one, and its place."""
    for path in MARKDOWN:
        if path.name != "command-line.md":  # which is made from the parser
            text = path.read_text("utf-8")
            for line in re.findall(r"^    (kilobit .*)$", text, re.MULTILINE):
                yield path.name, line
    for block in (b for b in BLOCKS if b.language in ("bash", "console")):
        text = block.text.replace("\\\n", " ")
        for line in re.findall(r"^(?:\$ |.*&& \.venv/bin/)?(kilobit .*)$", text, re.MULTILINE):
            if block.language == "bash" or f"$ {line}" in text:
                yield block.name, line


def test_command_lines_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(kilobit_lines())
    assert len(lines) > 40
    for place, line in lines:
        # What follows two spaces says what the command does; `[...]` may be given, `a|b` is either.
        command = re.split(r"\s{2,}|\s[|>]\s", line)[0].rstrip("\\ ")
        command = re.sub(r"[\[\]]|(?<=\w)\|\w+|…", "", command.replace("...", ""))
        command = re.sub(r"\b[NS]\b", "1", command)
        argv = shlex.split(command, comments=True)[1:]
        try:
            launch.parse(argv)
        except SystemExit as end:
            assert end.code == 0, f"{place}: {line}: {capsys.readouterr().err}"


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda b: b.name)
def test_shell_lines_name_what_is_there(block: Block) -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    text = block.text.replace("\\\n", " ")
    for line in re.split(r"\n|&&|\|", text):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        name = words[0].removeprefix(".venv/bin/")
        for extras in re.findall(r"\[([\w,]+)\]", line) if name == "pip" else ():
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), line
        for path in re.findall(r"(?:tests|docs|benchmarks|examples)/[\w./-]+", line):
            assert (REPOSITORY / path).exists(), line
        known = name in ("kilobit", "pip", "pytest", "python", "python3") or name.startswith(OTHERS)
        assert known, f"{block.name}: {line}"


def test_tests_and_benchmarks_that_pages_name_are_there() -> None:
    for page in MARKDOWN:
        # Pages about adding something name the files that the reader adds.
        if str(page.relative_to(REPOSITORY)) not in ADDING:
            named = re.findall(r"\b(?:tests|benchmarks)/[\w./]*\w", page.read_text("utf-8"))
            missing = [name for name in named if not list(REPOSITORY.glob(f"{name}*"))]
            assert missing == [], page
