"""Process that imports kilobit once and runs each command line in a fork of itself, within limits.

Reads one JSON object a line: `argv`, `folder` (where the command runs) and `output` (file for what
it prints). Answers with one: `status` (negative: the signal that ended it), `cpu_s` and `grown_mb`
of the command and its children, and `late`, whether it had to be ended after `MOST_WALL_S`.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path

MOST_CPU_S, MOST_GROWN_MB = 5, 1024
# The clock of the wall says little on a machine with other work.
MOST_WALL_S = 30
_MODULES = (
    "kilobit.cluster.cli.aggregate",
    "kilobit.cluster.cli.certify",
    "kilobit.cluster.cli.compare",
    "kilobit.cluster.cli.front",
    "kilobit.cluster.cli.proofs",
    "kilobit.cluster.cli.report",
    "kilobit.cluster.cli.scorecard",
    "kilobit.cluster.cli.status",
    "kilobit.cluster.driver.check",
    "kilobit.cluster.launchers.kubernetes",
    "kilobit.cluster.launchers.slurm",
    "kilobit.cluster.runs.folder",
    "kilobit.cluster.shards.load",
    "kilobit.cluster.shards.plan",
    "kilobit.cluster.shards.skeleton",
    "kilobit.evaluators.gguf",
    "kilobit.evaluators.judges.judges",
    "kilobit.evaluators.model.adapter_check",
    "kilobit.evaluators.model.generate",
    "kilobit.evaluators.proof.export",
    "datasets",
    "gguf",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llama.tokenization_llama",
)


def _address_space() -> int:
    """Return the bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()


def _fork_kb() -> int:
    """Return the kilobytes that a fork holds which does nothing."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.wait4(pid, 0)[2].ru_maxrss


def _command(argv: list[str], folder: str, output: str) -> None:
    """Run a command line in this process, and end the process."""
    os.setsid()
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (4 * MOST_CPU_S, 4 * MOST_CPU_S))
    most = _address_space() + (MOST_GROWN_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    status = 1
    try:
        from kilobit.launch import main

        status = main(argv)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter ends, but without its clean-up
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(argv: list[str], folder: str, output: str) -> dict[str, object]:
    before = _fork_kb()
    pid = os.fork()
    if pid == 0:
        _command(argv, folder, output)
    ends, late = time.monotonic() + MOST_WALL_S, False
    while True:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            break
        if time.monotonic() > ends and not late:
            late = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "cpu_s": used.ru_utime + used.ru_stime,
        "grown_mb": max(0, used.ru_maxrss - before) / 1024,
        "late": late,
    }


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in _MODULES:
        import_module(name)
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
