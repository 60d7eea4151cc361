"""Programs run where our packages can't be imported, in forks of one process.

An interpreter for each takes seconds; that both say the same is tested with the sandbox.
"""

import atexit
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from kilobit.evaluators.proof.sandbox import Limits, Sandbox
from kilobit.search.programs.program import Program

ECHO = """
import json, sys
for line in sys.stdin:
    print(json.dumps(json.loads(line).upper()))
"""


@cache
def _sandbox() -> Sandbox:
    found = Sandbox(1)
    atexit.register(found.__exit__)
    return found


def run_files(
    script: bytes,
    payload: bytes,
    model: Path,
    inputs: Sequence[str],
    limits: Limits,
    train: bytes | None = None,
    *,
    fresh: bool = False,
) -> list[str]:
    """Return the outputs of a program, in an interpreter of its own if asked; see `Sandbox.run`."""
    if fresh:
        with Sandbox(1, fresh=True) as sandbox:
            return sandbox.run(script, payload, model, inputs, limits, train)
    return _sandbox().run(script, payload, model, inputs, limits, train, has_adapter=True)


def printed(
    programs: Mapping[str, Program], model: Path, inputs: Sequence[str]
) -> dict[str, list[str]]:
    """Return what each program prints for the inputs."""
    return {
        name: run_files(program.script, program.payload, model, inputs, Limits())
        for name, program in programs.items()
    }
