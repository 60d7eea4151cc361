"""What a case finds when its command begins: a sweep file, a run, files and programs of its own."""

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.runs.folder import RunFolder, create_run, open_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.proof.program_files import write_folder, write_program
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.programs.program import Program
from kilobit.search.programs.recipe import Recipe
from kilobit.search.task import split_digest
from tests.support.rows import write_rows

CANDIDATE = "0123456789abcdef"
ONE_RUNG = {"examples": 4, "train_steps": 1, "eta": 2, "count": 1}


@dataclass
class Scene:
    """A folder of its own for each case.

    Attributes:
        here: the folder.
        monkeypatch: what it changes is as it was when the case is over.
        write_sweep: writes a small sweep file with changes; it lies in `here`.
        models: folders of small base models.
    """

    here: Path
    monkeypatch: pytest.MonkeyPatch
    write_sweep: Callable[..., Path]
    models: Mapping[str, Path]

    @property
    def names(self) -> dict[str, str]:
        """Return what may stand in a command and in a message."""
        return {
            "here": str(self.here),
            "sweep": str(self.here / "sweep.yaml"),
            "run": str(self.here / "run"),
            "model": str(self.models["llama"]),
            "other_model": str(self.models["qwen2"]),
            "candidate": CANDIDATE,
            "python": str(Path("/usr/bin/env")),
        }

    def fill(self, text: str) -> str:
        """Return a text with the names of this scene in it."""
        for name, value in self.names.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def file(self, name: str, content: str | bytes) -> Path:
        """Write a file."""
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(raw)
        return path

    def only_programs(self, **programs: str) -> None:
        """Let only these shell scripts be found as programs, and what scripts need."""
        folder = self.here / "bin"
        folder.mkdir(exist_ok=True)
        for name, script in programs.items():
            path = self.file(f"bin/{name}", f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        self.monkeypatch.setenv("PATH", str(folder))

    def begun(self, name: str = "run", **changes: Any) -> RunFolder:
        """Begin a run that has done nothing, and let go of it."""
        path = self.write_sweep(**changes)
        with create_run(load_sweep(path), path, self.here / name) as run:
            return run

    def finished(
        self,
        name: str = "run",
        *,
        verified: bool = True,
        base: str = "weights",
        family: str = "prompt",
        **changes: Any,
    ) -> RunFolder:
        """Begin a run and write one completed program into its ledger."""
        run = self.begun(name, **{"rungs": ONE_RUNG, **changes})
        model, part, ledger = run.sweep.base_models[0].label, f"{CANDIDATE}-r0", ledger_of(run)
        about = {"candidate": CANDIDATE, "task": "numbers", "model": model, "regime": model}
        about |= {"family": family, "position": 0, "after": 0}
        spec = {"task": "numbers", "model": model}
        write_rows(ledger, "candidates", CANDIDATE, [about | {"spec": str(spec).replace("'", '"')}])
        write_rows(ledger, "predictions", part, [
            {"candidate": CANDIDATE, "rung": 0, "split": "search", "example": str(i), "output": "x"}
            for i in range(4)
        ])  # fmt: skip
        made = program()
        write_program(ledger, part, CANDIDATE, 0, made)
        row = {"candidate": CANDIDATE, "rung": 0, "split": "search", "num_examples": 4}
        row |= {"score": 0.5, "lower": 0.1, "upper": 0.9, "base_digest": base, "attempt": 1}
        row |= {"program": made.digest, "program_bits": made.program_bits, "payload_bits": 0}
        write_rows(ledger, "rungs", part, [row | {"finished_at": datetime.now(UTC)}])
        decision = {"candidate": CANDIDATE, "rung": 0, "decision": "finish", "order": 0}
        write_rows(ledger, "decisions", part, [decision])
        if verified:
            found = {"program": made.digest, "candidate": CANDIDATE, "verified": True}
            write_rows(ledger, "verifications", CANDIDATE, [found])
        return run

    def opened(self, name: str = "run", *, digest: str | None = None) -> RunFolder:
        """Return a finished run whose sealed split was opened for another program."""
        run = self.finished(name)
        task = load_task(run.sweep.task, run.sweep_folder)
        row = {
            "opening": "f" * 16,
            "sealed_digest": digest or split_digest(task.splits.sealed, task.metric),
            "num_examples": len(task.splits.sealed),
            "selection": ["another@weights"],
            "selection_digest": "f" * 16,
            "num_programs": 1,
            "level": 0.95,
            "targets": [0.8],
            "repeated": False,
            "attempt": 1,
            "opened_at": datetime(2026, 1, 2, tzinfo=UTC),
        }
        write_rows(ledger_of(run), "openings", "f" * 16, [row])
        return run

    def program_folder(self, name: str = "program", **about: Any) -> Path:
        """Write the folder of a program."""
        folder = self.here / name
        folder.mkdir()
        write_folder(folder, program(), {"model": "llama", **about})
        self.file(f"{name}/examples.jsonl", '{"input": "a", "output": "b"}\n')
        return folder


def program() -> Program:
    """Return a program that prints nothing."""
    recipe = Recipe(question="{input}", batch_size=8, max_new_tokens=8)
    return Program(recipe, b"pass\n", b"")


def ledger_of(run: RunFolder) -> Ledger:
    """Return the ledger of the latest attempt at a run, to write to when nobody holds it."""
    return replace(open_run(run.path), locked=True).ledger


@dataclass(frozen=True)
class Case:
    """A command line that ends with a message.

    Attributes:
        words: the command line; names of the scene stand in braces.
        message: what stands in what is printed for errors, with the same names.
        status: the exit status.
        sweep: changes of the sweep file, which is written where they are given.
        given: what else is there when the command begins.
    """

    words: str
    message: str
    status: int = 2
    sweep: Mapping[str, Any] | None = None
    given: Callable[[Scene], object] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Return what a report of the tests calls it."""
        return f"{self.words.split()[0]}: {self.message[:60]}"

    def argv(self, scene: Scene) -> list[str]:
        """Return the words of the command line."""
        return [scene.fill(word) for word in shlex.split(self.words)]


def no_store(scene: Scene) -> None:
    """Let the object store be a port at which nobody listens."""
    scene.monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    scene.monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        scene.monkeypatch.setenv(name, "x")
    assert os.environ["AWS_ENDPOINT_URL"]
