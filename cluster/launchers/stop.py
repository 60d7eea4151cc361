"""Stop the run of a sweep file on this machine, and wait until it has ended.

    python -m kilobit.cluster.launchers.stop SWEEP.yaml [--within SECONDS]

Kubernetes calls it before it stops the pod in which Ray started the run, because the stop signal
of a pod reaches only Ray there. Exit status 0 if no such run is left, else 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

_PROGRAMS = ("kilobit", "launch.py")


def runs_of(sweep: str) -> list[psutil.Process]:
    """Return the processes of this machine that are `kilobit run SWEEP`.

    Excludes a shell or a `ray job submit` with the same command among its arguments.
    """
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if _is_run(process.info["cmdline"] or [], sweep)
    ]


def _is_run(words: Sequence[str], sweep: str) -> bool:
    # The script is the first word, or the second after the interpreter of its first line.
    return any(
        Path(words[at]).name in _PROGRAMS and list(words[at + 1 : at + 3]) == ["run", sweep]
        for at in range(min(2, len(words)))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Stop the run and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kilobit.cluster.launchers.stop")
    parser.add_argument(
        "sweep", metavar="SWEEP.yaml", help="the sweep file, as it was given to run"
    )
    parser.add_argument(
        "--within", type=float, default=60.0, metavar="S", help="longest wait in seconds"
    )
    args = parser.parse_args(argv)
    found = runs_of(args.sweep)
    for process in found:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(found, timeout=args.within)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
