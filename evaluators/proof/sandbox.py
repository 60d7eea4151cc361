"""Sandbox that runs a program's two files in a fresh process, without this package.

The process gets a copy of the two files and nothing else of the run. Time, memory and output are
limited, for each process separately. If the system lets an ordinary user call `unshare`, the
program has no network, and the processes that it starts end with it; otherwise a process that
leaves its process group is not found and may outlive it. It can still read and write every file
that this user can: treat a foreign program as foreign code.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Runs in the new process before the program: sets the limits, then hides our packages.
_GUARD = """
import resource, runpy, sys
memory, seconds, size = map(int, sys.argv[1:4])
for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds),
                     (resource.RLIMIT_FSIZE, size), (resource.RLIMIT_CORE, 0)):
    if value:
        resource.setrlimit(limit, (value, value))
class Hidden:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "kilobit":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden)
sys.argv = ["program.py", *sys.argv[4:]]
runpy.run_path("program.py", run_name="__main__")
"""
_MAX_OUTPUT_BYTES = 1 << 30
_NO_NETWORK = ("unshare", "-rn", "--")
# When the first process of a PID namespace ends, the kernel ends all others in it. The first gets
# no signal that it does not handle, so the program has to be the second.
_ALONE = (
    "unshare",
    "-rn",
    "--pid",
    "--fork",
    "--kill-child",
    "--",
    "sh",
    "-c",
    '"$@"; exit $?',
    "sh",
)
_RUNNING: set[subprocess.Popen[bytes]] = set()
_SHELL_SIGNAL = 128
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "LANG", "SYSTEMROOT")


class ProgramFailedError(RuntimeError):
    """A program failed; the message says how."""


@dataclass(frozen=True)
class Limits:
    """Resource limits of a program.

    Attributes:
        seconds: wall-clock time, and CPU time per core.
        memory_gb: address space in GiB; 0 is no limit, which CUDA needs.
        threads: number of torch threads.
    """

    seconds: int = 600
    memory_gb: int = 32
    threads: int = 1


@cache
def isolation() -> tuple[str, ...]:
    """Return the command prefix that isolates a program as far as the system allows."""
    if shutil.which("unshare") is None:
        return ()
    for command in (_ALONE, _NO_NETWORK):
        done = subprocess.run([*command, "true"], capture_output=True, check=False)  # noqa: S603
        if done.returncode == 0:
            return command
    return ()


def network_can_be_cut() -> bool:
    """Return whether `unshare` gives a process of this user a network of its own."""
    return bool(isolation())


def interrupt_running() -> None:
    """Interrupt the programs that other threads wait for; a terminal's Ctrl-C does not reach them.

    The threads that wait for them get `KeyboardInterrupt`.
    """
    for process in list(_RUNNING):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)


def run_files(
    script: bytes,
    payload: bytes,
    model: Path,
    inputs: Sequence[str],
    limits: Limits,
    train: bytes | None = None,
) -> list[str]:
    """Return the outputs of a program for `inputs`.

    Args:
        script: program.py.
        payload: payload.bin.
        model: the folder of the base model.
        inputs: the inputs, one per output.
        limits: time, memory and threads.
        train: the train split as a file, for a program that names demonstrations by index.

    Raises:
        ProgramFailedError: if it fails, takes too long, or does not print a JSON string per input.
        KeyboardInterrupt: if it was interrupted.
    """
    numbers = (limits.memory_gb << 30, limits.seconds * (os.cpu_count() or 1), _MAX_OUTPUT_BYTES)
    with tempfile.TemporaryDirectory(prefix="kilobit-") as scratch:
        folder = Path(scratch)
        (folder / "program.py").write_bytes(script)
        (folder / "payload.bin").write_bytes(payload)
        arguments = [str(model.absolute())]
        if train is not None:
            (folder / "train.jsonl").write_bytes(train)
            arguments.append("train.jsonl")
        command = [
            *isolation(),
            sys.executable,
            "-c",
            _GUARD,
            *map(str, numbers),
            *arguments,
        ]
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
            "HOME": scratch,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(limits.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUTF8": "1",
        }
        with (folder / "out").open("w+b") as out, (folder / "err").open("w+b") as err:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=environment,
                process_group=0,
            )
            asked = "".join(json.dumps(text) + "\n" for text in inputs).encode()
            status = _status(process, asked, limits.seconds)
            out.seek(0)
            printed = out.read().decode("utf-8", "replace")
            err.seek(0)
            complaint = err.read()[-4000:].decode("utf-8", "replace").strip()
    if status == -signal.SIGINT:
        # Ctrl-C reaches the program as well; that is no failure of the program.
        raise KeyboardInterrupt
    if status:
        last = plain(complaint.splitlines()[-1]) if complaint else "no error message"
        raise ProgramFailedError(f"it ended with status {status}: {last}")
    return _outputs(printed, len(inputs))


def _status(process: subprocess.Popen[bytes], asked: bytes, seconds: int) -> int:
    """Wait for a program, kill the rest of its process group, and return its status.

    Returns:
        The exit status, -N if signal N ended the program.

    Raises:
        ProgramFailedError: if it takes more than `seconds`.
    """
    _RUNNING.add(process)
    try:
        process.communicate(asked, seconds)
    except subprocess.TimeoutExpired as error:
        raise ProgramFailedError(f"it took more than {seconds} s") from error
    finally:
        _RUNNING.discard(process)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # A shell reports that signal N ended a program as status 128 + N.
    status = process.returncode
    return _SHELL_SIGNAL - status if status > _SHELL_SIGNAL else status


def _outputs(printed: str, expected: int) -> list[str]:
    outputs = []
    for number, line in enumerate(printed.split("\n")[:-1], 1):
        try:
            output = json.loads(line)
            # Half a surrogate pair is valid JSON, but can't be stored as text.
            str(output).encode()
        except (ValueError, RecursionError):
            output = None
        if not isinstance(output, str):
            raise ProgramFailedError(f"line {number} of its output is not a JSON string")
        outputs.append(output)
    if len(outputs) != expected:
        raise ProgramFailedError(f"it printed {len(outputs)} outputs for {expected} inputs")
    return outputs


def plain(text: str) -> str:
    """Return an untrusted text without characters that could control a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
