"""What the project promises about itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

BELOW = {"evaluators": 0, "search": 1, "cluster": 2, "launch": 3}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_imports_point_one_way_and_only_cluster_knows_ray() -> None:
    for package, level in BELOW.items():
        folder = REPOSITORY / package
        for path in [REPOSITORY / "launch.py"] if package == "launch" else folder.rglob("*.py"):
            found = imports_of(path)
            assert all(BELOW[name] <= level for name in found & set(BELOW)), path
            if package != "cluster":
                assert not found & {"ray", "deepspeed"}, path
            if package == "search":
                assert not found & {"torch", "transformers", "time"}, path


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    ci = (REPOSITORY / ".ci" / "run").read_text("utf-8").splitlines()
    commands = re.findall(r"```bash\n(python3 -m venv .*?)\n```", readme)
    assert len(commands) == 2
    assert commands[1] in ci
    assert commands[1].endswith(".venv/bin/pytest")


def test_the_tree_names_every_module_and_no_other() -> None:
    contributing = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    tree = contributing.split("## The tree", 1)[1]
    named = set(re.findall(r"^ *([\w./]+\.py) ", tree, re.MULTILINE))
    files = {
        path.name
        for package in ("cluster", "search", "evaluators")
        for path in (REPOSITORY / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert {Path(name).name for name in named} == files | {"launch.py"}


def test_what_is_pinned_is_what_is_asked_for() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[><=]", name)[0].lower().replace("-", "_") for name in asked}
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("-", "_") for line in lines if "==" in line}
    assert names <= pinned


def test_the_models_are_small_enough_to_ship() -> None:
    folder = REPOSITORY / "examples" / "tiny"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 8_000_000


def test_help_works_from_the_file_too() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "launch.py"), "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--dry-run" in done.stdout
