"""What the project promises about its own layout, names and prose."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.conftest import REPOSITORY

PACKAGES = ("search", "evaluators", "cluster")
# Imports point from the right to the left.
ORDER = (*PACKAGES, "launch")
# The same inside cluster/: each folder or module imports only those named before it.
ORDER_IN_CLUSTER = (
    ("console", "messages", "requests"),
    ("sweep",),
    ("runs", "shards"),
    ("worker",),
    ("fleet", "launchers"),
    ("driver",),
    ("cli",),
    ("python",),
)
# Base names that several modules share, each with the reason.
SHARED_NAMES = {
    "base_model": "in search/ the settings that name a base model, in evaluators/ the loaded model",
}
# Modules without a test file of their name, each with the file that tests them.
TESTED_ELSEWHERE: dict[str, str] = {}
MOST_MODULES, MOST_FILES, MOST_LINES_OF_THE_TREE = 190, 12, 40
# A module may have several files of tests, one an aspect, beside the files of its neighbours.
MOST_FILES_OF_TESTS = 16
# Software is not a person.
PERSONS = re.compile(r"\b(who|whom|whoever|nobody|somebody|everybody|anybody)\b", re.I)
FIRST_WORDS = re.compile(r"(What|Whether|Who|How|Return what|Take in|Let go|Give)\b")


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module by its name below `kilobit`, packages not counted."""
    files = [path for name in PACKAGES for path in (REPOSITORY / name).rglob("*.py")]
    named = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path
        for path in files
        if path.name != "__init__.py"
    }
    return named | {"launch": REPOSITORY / "launch.py"}


def imported(path: Path) -> Iterator[str]:
    """Yield the whole name of each module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, path
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole.removeprefix("kilobit.") in modules() else node.module


@cache
def edges() -> dict[str, set[str]]:
    """Return for each module of ours which others it imports."""
    ours = "kilobit."
    return {
        name: {found.removeprefix(ours) for found in imported(path) if found.startswith(ours)}
        for name, path in modules().items()
    }


def test_imports_of_packages_point_one_way() -> None:
    for name, targets in edges().items():
        allowed = ORDER[: ORDER.index(name.split(".")[0]) + 1]
        assert not [target for target in targets if target.split(".")[0] not in allowed], name


def test_imports_of_folders_in_cluster_point_one_way() -> None:
    level = {room: at for at, rooms in enumerate(ORDER_IN_CLUSTER) for room in rooms}
    for name, targets in edges().items():
        for target in targets:
            if not (name.startswith("cluster.") and target.startswith("cluster.")):
                continue
            here, there = name.split(".")[1], target.split(".")[1]
            assert here == there or level[here] > level[there], f"{name} imports {target}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    seen: dict[str, bool] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name in seen:
            return
        for target in edges().get(name, ()):
            visit(target, (*path, name))
        seen[name] = True

    for name in edges():
        visit(name, ())


def test_old_top_level_names_are_imported_nowhere() -> None:
    tracked = [
        path
        for folder in (*PACKAGES, "tests", "benchmarks", "examples", "docs")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    for path in [*tracked, REPOSITORY / "launch.py"]:
        assert not {name.split(".")[0] for name in imported(path)} & set(ORDER), path


def test_libraries_are_imported_only_where_they_belong() -> None:
    for name, path in modules().items():
        top = {found.split(".")[0] for found in imported(path)}
        if not name.startswith("cluster."):
            assert not top & {"ray", "deepspeed"}, name
        if name.startswith("search."):
            # A record has times, but nothing in search/ looks at a clock.
            clocks = {"time"} if name == "search.records" else {"time", "datetime"}
            assert not top & {"torch", "transformers", "peft", *clocks}, name


def test_search_opens_no_file_but_yaml() -> None:
    opening = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir"}
    for name, path in modules().items():
        if not name.startswith("search.") or name == "search.config_file":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            found = getattr(called, "id", getattr(called, "attr", None))
            assert found not in opening, f"{name}:{getattr(node, 'lineno', 0)}"


def _reads_text_by_locale(call: ast.Call) -> bool:
    """Return whether a call opens a text file with the encoding of the machine's locale."""
    name = getattr(call.func, "id", getattr(call.func, "attr", None))
    if name not in ("open", "read_text", "write_text") or ast.unparse(call.func) == "os.open":
        return False
    given = [arg.value if isinstance(arg, ast.Constant) else None for arg in call.args]
    if any(word.arg == "encoding" for word in call.keywords):
        return False
    if name != "open":
        return len(given) < (1 if name == "read_text" else 2)
    modes = given[1:2] if isinstance(call.func, ast.Name) else given[:1]
    mode = modes[0] if modes else "r"
    # An `open` that is not a file's takes something else than a mode.
    return isinstance(mode, str) and re.fullmatch("[rwxat+]+", mode) is not None


def test_text_files_have_an_encoding_and_lines_of_data_end_at_a_line_feed() -> None:
    folders = (*PACKAGES, "docs", "benchmarks", "examples")
    files = [path for name in folders for path in (REPOSITORY / name).rglob("*.py")]
    wrong = []
    for path in [*files, REPOSITORY / "launch.py"]:
        tree = ast.parse(path.read_text("utf-8"))
        # The first or last line of a message is for people; `splitlines` ends lines at U+2028 too.
        of_a_message = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            splits = getattr(node.func, "attr", None) == "splitlines"
            if _reads_text_by_locale(node) or (splits and id(node) not in of_a_message):
                wrong.append(
                    f"{path.relative_to(REPOSITORY)}:{node.lineno}: {ast.unparse(node)[:80]}"
                )
    assert wrong == []


def test_there_are_few_modules_in_small_folders() -> None:
    assert len(modules()) <= MOST_MODULES
    folders: Counter[Path] = Counter()
    for top in (*PACKAGES, "tests"):
        for path in (REPOSITORY / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                folders[path.parent] += 1
    tests = REPOSITORY / "tests"
    assert not {
        str(path): count
        for path, count in folders.items()
        if count > (MOST_FILES_OF_TESTS if path.is_relative_to(tests) else MOST_FILES)
    }


def test_base_names_differ() -> None:
    named = defaultdict(list)
    for name in modules():
        named[name.rpartition(".")[2]].append(name)
    assert {name for name, found in named.items() if len(found) > 1} == set(SHARED_NAMES)


def test_each_module_has_its_test_where_its_path_says() -> None:
    missing = []
    for name in modules():
        folder, _, base = name.rpartition(".")
        where = REPOSITORY / "tests" / folder.replace(".", "/")
        if not [*where.glob(f"test_{base}.py"), *where.glob(f"test_{base}_*.py")]:
            missing.append(name)
    assert sorted(missing) == sorted(TESTED_ELSEWHERE)
    for file in TESTED_ELSEWHERE.values():
        assert (REPOSITORY / file).exists(), file


def test_each_test_file_stands_where_its_module_is() -> None:
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        parts = path.relative_to(REPOSITORY / "tests").parts
        if parts[0] not in PACKAGES:
            continue
        folder, base = ".".join(parts[:-1]), path.stem.removeprefix("test_")
        mine = [name.rpartition(".")[2] for name in modules() if name.rpartition(".")[0] == folder]
        assert [name for name in mine if base == name or base.startswith(f"{name}_")], path


def test_no_test_module_imports_another() -> None:
    for path in (REPOSITORY / "tests").rglob("*.py"):
        for name in imported(path):
            assert not re.match(r"tests\b.*\.test_", name), f"{path} imports {name}"


def test_the_tree_is_short_and_names_every_folder() -> None:
    contributing = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    tree = contributing.split("## The tree", 1)[1].split("```")[1]
    assert len(tree.strip().splitlines()) <= MOST_LINES_OF_THE_TREE
    folders = {
        f"{path.parent.relative_to(REPOSITORY).as_posix()}/"
        for path in modules().values()
        if path.parent != REPOSITORY
    }
    named = set(re.findall(r"^ *([\w/]+/) ", tree, re.MULTILINE))
    assert folders <= named
    assert not [name for name in named if not (REPOSITORY / name).is_dir()]


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield where each docstring stands, and its first line."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text:
                yield f"{name}:{getattr(node, 'lineno', 1)}", text.splitlines()[0]


def test_first_lines_of_docstrings_name_a_thing_or_begin_with_a_verb() -> None:
    odd = [f"{at}: {line}" for at, line in docstrings() if FIRST_WORDS.match(line)]
    odd += [f"{at}: {line}" for at, line in docstrings() if PERSONS.search(line)]
    assert not odd, "\n".join(odd)


def _unquoted_commands(path: Path) -> Iterator[str]:
    """Yield the places that make a command to copy from a bare value: `f"kilobit front {run}"`."""
    begun = re.compile(r"\b(kilobit|duckdb) [a-z-]+ [^\n`]*$")
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        text = ""
        for part in node.values if isinstance(node, ast.JoinedStr) else ():
            if isinstance(part, ast.FormattedValue) and begun.search(text):
                yield f"{path.relative_to(REPOSITORY)}:{part.lineno}: {ast.unparse(part.value)}"
            text += str(part.value) if isinstance(part, ast.Constant) else "{}"
        left = node.left if isinstance(node, ast.BinOp) else None
        bare = isinstance(left, ast.Constant) and begun.search(str(left.value))
        if bare and "shlex.quote" not in ast.unparse(node):
            yield f"{path.relative_to(REPOSITORY)}:{node.lineno}"


def test_commands_to_copy_are_quoted() -> None:
    assert [place for path in modules().values() for place in _unquoted_commands(path)] == []


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    ci = (REPOSITORY / ".ci" / "run").read_text("utf-8").splitlines()
    commands = re.findall(r"```bash\n(python3 -m venv .*?)\n```", readme)
    assert len(commands) == 2
    assert commands[1] in ci
    assert commands[1].endswith(".venv/bin/pytest -n 2")


def test_what_is_pinned_is_what_is_asked_for() -> None:
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
