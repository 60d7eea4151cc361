"""Sandbox that runs a program's two files in a process of its own, without this package.

The process gets a copy of the two files and nothing else of the run. Time, memory and output are
limited, for each process separately. `program_process.py` says what else is enforced where the
system lets an ordinary user make namespaces. Where it does not, a program can read and write every
file that this user can, and a process that leaves its process group may outlive it: treat a foreign
program as foreign code.

Importing the libraries takes seconds, so a sandbox imports them once and runs each program in a
fork of that process, which holds no model. With `fresh` each program has an interpreter of its own.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, Self

from kilobit.evaluators.cpus_and_memory import cpus
from kilobit.evaluators.merge.atomic_folder import temporary_folder
from kilobit.evaluators.proof import program_process

_MAX_OUTPUT_BYTES = 1 << 28
_MAX_LINE_BYTES = 1 << 20
_ISOLATE = True
_RUNNING: set["_Server"] = set()
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "LANG", "SYSTEMROOT")
# What every program imports, and what programs with an adapter import too.
_MODULES = (
    "torch",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)
_MODULES_OF_ADAPTERS = ("peft", "constriction")


class ProgramFailedError(RuntimeError):
    """A program failed; the message says how."""


@dataclass(frozen=True)
class Limits:
    """Resource limits of a program.

    Attributes:
        seconds: wall-clock time, and CPU time per core.
        memory_gb: address space in GiB; 0 is no limit, which CUDA needs.
        idle: whether it gets only processor time that no other process wants.
    """

    seconds: int = 600
    memory_gb: int = 32
    idle: bool = False


@cache
def enforced() -> frozenset[str]:
    """Return which of `network`, `processes` and `files` are enforced on this machine."""
    with Sandbox(1, fresh=True) as sandbox, temporary_folder("empty") as empty:
        sandbox.run(b"", b"", empty, (), Limits(seconds=60))
        return sandbox.enforced


def interrupt_running() -> None:
    """End the programs that other threads wait for; a terminal's Ctrl-C does not reach them.

    The threads that wait for them get `KeyboardInterrupt`.
    """
    for server in list(_RUNNING):
        server.interrupt()


class Sandbox:
    """Sandbox for programs that run one after the other or, from several threads, at once.

    Args:
        threads: number of torch threads of each program.
        fresh: whether each program gets an interpreter of its own.

    Attributes:
        enforced: what was enforced for the last program; see `enforced`.
    """

    def __init__(self, threads: int, *, fresh: bool = False) -> None:
        self._threads, self._fresh = threads, fresh
        self._server: _Server | None = None
        self._lock = threading.Lock()
        self.enforced: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    def run(
        self,
        script: bytes,
        payload: bytes,
        model: Path,
        inputs: Sequence[str],
        limits: Limits,
        train: bytes | None = None,
        *,
        has_adapter: bool = False,
    ) -> list[str]:
        """Return the outputs of a program for `inputs`.

        Args:
            script: program.py.
            payload: payload.bin.
            model: the folder of the base model.
            inputs: the inputs, one per output.
            limits: time, memory and priority.
            train: the train split as a file, for a program that names demonstrations by index.
            has_adapter: whether to import the libraries of adapters before it starts.

        Raises:
            ProgramFailedError: if it fails, takes too long, or does not print a JSON string per
                input.
            KeyboardInterrupt: if it was interrupted.
        """
        with temporary_folder("program") as folder:
            _write(folder, script, payload, inputs, train)
            model = model.absolute()
            request = {
                "folder": str(folder / "program"),
                "root": str(folder / "root"),
                "model": str(model),
                "arguments": [str(model), *(["train.jsonl"] if train is not None else [])],
                "seconds": limits.seconds,
                "limits": _limits(limits),
                "isolate": _ISOLATE,
                "idle": limits.idle,
                "modules": [] if self._fresh else _modules(model, has_adapter),
            }
            # Opened before the program runs: where it can write here, it may put other files there.
            with (folder / "out").open("rb") as out, (folder / "err").open("rb") as err:
                status = self._ask(request)
                if status is None:
                    raise ProgramFailedError(f"it took more than {limits.seconds} s")
                if status:
                    raise ProgramFailedError(f"it ended with status {status}: {_last_line(err)}")
                return _outputs(out, len(inputs))

    def warm(self) -> None:
        """Begin to import what programs need, and do not wait for it."""
        server = self._forking()
        if server is not None:
            server.tell({"modules": [*_MODULES, *_MODULES_OF_ADAPTERS]})

    def end_idle(self) -> None:
        """End the programs that get only processor time that no other process wants; they fail."""
        if self._server is not None:
            self._server.tell({"end_idle": True})

    def _forking(self) -> "_Server | None":
        with self._lock:
            if not self._fresh and (self._server is None or self._server.is_dead):
                self._server = _Server(self._threads)
            return self._server

    def _ask(self, request: dict[str, Any]) -> int | None:
        server = self._forking()
        if server is not None:
            status, enforced = server.ask(request)
        if server is None or server.is_dead:
            # What ended the server may have been another program.
            server = _Server(self._threads)
            try:
                status, enforced = server.ask(request | {"modules": []})
            finally:
                server.close()
        self.enforced = frozenset(enforced)
        return status


def _write(
    folder: Path, script: bytes, payload: bytes, inputs: Sequence[str], train: bytes | None
) -> None:
    (folder / "root").mkdir()
    (folder / "program").mkdir()
    (folder / "program" / "program.py").write_bytes(script)
    (folder / "program" / "payload.bin").write_bytes(payload)
    if train is not None:
        (folder / "program" / "train.jsonl").write_bytes(train)
    (folder / "in").write_bytes("".join(json.dumps(text) + "\n" for text in inputs).encode())
    for name in ("out", "err"):
        (folder / name).touch()


def _limits(limits: Limits) -> dict[str, int]:
    """Return the system's limits by name."""
    found = {"CPU": limits.seconds * (cpus() + 1), "FSIZE": _MAX_OUTPUT_BYTES, "CORE": 0}
    return found | ({"AS": limits.memory_gb << 30} if limits.memory_gb else {})


def _modules(model: Path, has_adapter: bool) -> list[str]:
    """Return the modules to import before a program of this model runs."""
    found = [*_MODULES, *(_MODULES_OF_ADAPTERS if has_adapter else ())]
    with suppress(OSError, ValueError, AttributeError):
        kind = json.loads((model / "config.json").read_text("utf-8")).get("model_type")
        if re.fullmatch("[a-z0-9_]+", str(kind)):
            found.append(f"transformers.models.{kind}.modeling_{kind}")
    return found


class _Server:
    """Process that runs programs; see `program_process.py`."""

    def __init__(self, threads: int) -> None:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-X", "utf8", program_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd="/",
            process_group=0,
        )
        self._lock = threading.Lock()
        self._waiting: dict[int, SimpleQueue[tuple[int | None, list[str]]]] = {}
        self._interrupted = self.is_dead = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        _RUNNING.add(self)

    def ask(self, request: dict[str, Any]) -> tuple[int | None, list[str]]:
        """Run a program; return its status, None if it took too long, and what was enforced.

        Raises:
            KeyboardInterrupt: if it was interrupted.
        """
        answer: SimpleQueue[tuple[int | None, list[str]]] = SimpleQueue()
        with self._lock:
            if self.is_dead:
                return -signal.SIGKILL, []
            number = len(self._waiting)
            self._waiting[number] = answer
            self.tell(request | {"id": number})
        found = answer.get()
        if self._interrupted:
            raise KeyboardInterrupt
        return found

    def tell(self, request: dict[str, Any]) -> None:
        """Send a request and do not wait for an answer."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            number, status, enforced = json.loads(line)
            self._waiting[number].put((status, enforced))
        with self._lock:
            self.is_dead = True
            for answer in self._waiting.values():
                answer.put((-signal.SIGKILL, []))

    def interrupt(self) -> None:
        """End the programs that run as Ctrl-C would."""
        self._interrupted = True
        self.close()

    def close(self) -> None:
        """End the process and all programs."""
        _RUNNING.discard(self)
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)


def _last_line(err: BinaryIO) -> str:
    err.seek(max(0, err.seek(0, os.SEEK_END) - 4000))
    complaint = err.read().decode("utf-8", "replace").strip()
    return plain(complaint.splitlines()[-1]) if complaint else "no error message"


def _outputs(out: BinaryIO, expected: int) -> list[str]:
    """Return the outputs that a program printed; read no further than to the first wrong line."""
    outputs = list[str]()
    while (line := out.readline(_MAX_LINE_BYTES)).endswith(b"\n"):
        number = len(outputs) + 1
        if number > expected:
            raise ProgramFailedError(f"it printed more than {expected} outputs, one for each input")
        try:
            output = json.loads(line.decode("utf-8", "replace"))
            # Half a surrogate pair is valid JSON, but can't be stored as text.
            str(output).encode()
        except (ValueError, RecursionError):
            output = None
        if not isinstance(output, str):
            raise ProgramFailedError(f"line {number} of its output is not a JSON string")
        outputs.append(output)
    if len(line) == _MAX_LINE_BYTES:
        raise ProgramFailedError(
            f"line {len(outputs) + 1} of its output is longer than {_MAX_LINE_BYTES} bytes"
        )
    if len(outputs) != expected:
        raise ProgramFailedError(f"it printed {len(outputs)} outputs for {expected} inputs")
    return outputs


def plain(text: str) -> str:
    """Return an untrusted text without characters that could control a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
