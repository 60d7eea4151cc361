"""What a hostile input consists of, and what its command may do: see `problems`."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from tests.conftest import REPOSITORY
from tests.hostile.zygote import MOST_CPU_S, MOST_GROWN_MB
from tests.support.runs import write_run

MODEL = REPOSITORY / "examples" / "tiny" / "pretrained"
SWEEP: dict[str, Any] = {
    "name": "hostile",
    "task": {"kind": "miniature", "name": "numbers"},
    "base_models": [{"regime": "pretrained", "path": str(MODEL)}],
    "families": {"prompt": {"candidates": 2}},
    "rungs": {"examples": 18},
}
# Letters that steer a terminal or turn the direction of writing, but line ends and tabs.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NOT_PLAIN = re.compile(
    r"Traceback|core dumped|^\s*File \".*\", line \d+|\b(Recursion|Key|Type|Attribute|"
    r"Index|Memory|Assertion|Overflow|Value|Unicode\w+|OS|Runtime|Name|Syntax|ZeroDivision|"
    r"Validation)Error\b|\b(Arrow|Safetensor|Template|Panic)\w*(Error|Invalid|Exception)\b",
    re.MULTILINE,
)
REFUSED = frozenset({1, 2})


@dataclass(frozen=True)
class Place:
    """The folder of a case: the current folder of its command.

    Attributes:
        here: the folder.
        finished: the folder of a run with two programs, to copy.
    """

    here: Path
    finished: Path

    @property
    def canary(self) -> Path:
        """Return the file that nothing may write."""
        return self.here / "executed"

    def file(self, name: str, content: str | bytes) -> Path:
        """Write a file."""
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        path.write_bytes(raw)
        return path

    def sparse(self, name: str, size: int) -> Path:
        """Write a file of zeros that takes no room."""
        path = self.file(name, b"")
        os.truncate(path, size)
        return path

    def sweep(self, **changes: Any) -> list[str]:
        """Write a sweep file, and return the words of its dry run."""
        self.file("sweep.yaml", yaml.safe_dump(SWEEP | changes, allow_unicode=True))
        return ["run", "sweep.yaml", "--dry-run"]

    def model(self) -> list[str]:
        """Copy a base model into `model`, and return the words of a dry run that names it."""
        shutil.copytree(MODEL, self.here / "model")
        return self.sweep(base_models=[{"regime": "r", "path": "model"}])

    def run(self) -> Path:
        """Copy a run that is finished."""
        return Path(shutil.copytree(self.finished, self.here / "run"))


Maker = Callable[[Place], Sequence[str]]


@dataclass(frozen=True)
class Case:
    """A hostile input.

    Attributes:
        kind: of the input, as a heading of the measurements.
        name: what is hostile.
        make: writes the input and returns the words of the command that reads it.
        allowed: exit statuses; 0 where the command has to do its work all the same.
    """

    kind: str
    name: str
    make: Maker = field(repr=False)
    allowed: frozenset[int] = REFUSED


@dataclass(frozen=True)
class Result:
    """What a command did; see `tests/hostile/zygote.py`."""

    status: int
    cpu_s: float
    grown_mb: float
    late: bool
    said: str


def cases(kind: str, makers: Mapping[str, Maker], allowed: frozenset[int] = REFUSED) -> list[Case]:
    """Return the cases of a kind."""
    return [Case(kind, name, make, allowed) for name, make in makers.items()]


def problems(result: Result, place: Place, allowed: frozenset[int]) -> list[str]:
    """Return which promises a command broke."""
    found = []
    if result.late:
        found.append("it did not end")
    if result.status not in allowed:
        found.append(f"it ended with status {result.status}")
    if result.cpu_s > MOST_CPU_S:
        found.append(f"it took {result.cpu_s:.1f} processor seconds")
    if result.grown_mb > MOST_GROWN_MB:
        found.append(f"it took {result.grown_mb:.0f} MB")
    if place.canary.exists():
        found.append("it executed a part of its input")
    if not result.said.strip():
        found.append("it said nothing")
    for what, pattern in (("is no plain word", _NOT_PLAIN), ("steers a terminal", _CONTROL)):
        shown = pattern.search(result.said)
        if shown:
            found.append(f"{shown[0]!r} {what}")
    return found


class Commands:
    """Runs command lines in forks of a process that has imported kilobit."""

    def __init__(self, folder: Path) -> None:
        """Start the process; `folder` is for a run that cases copy."""
        # One thread a process: a fork has no other, and reserves no memory for them.
        quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        quiet |= {
            "RUST_BACKTRACE": "0",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "MALLOC_ARENA_MAX": "2",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.zygote"],
            cwd=REPOSITORY,
            env=os.environ | quiet,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._finished = write_run(folder / "finished", {"a" * 16: [1, 0], "b" * 16: [1, 1]})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def place(self, here: Path) -> Place:
        """Return the place of a case."""
        return Place(here, self._finished)

    def run(self, argv: Sequence[str], here: Path) -> Result:
        """Run a command line in a folder."""
        output = here / "output"
        asked = {"argv": list(argv), "folder": str(here), "output": str(output)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return Result(**answer, said=output.read_text("utf-8", "replace"))
