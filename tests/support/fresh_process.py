"""Programs run where our packages can't be imported, in forks of one process.

An interpreter for each takes seconds; that both say the same is tested with the sandbox.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kilobit.evaluators.proof.sandbox import Limits, Sandbox
from kilobit.search.programs.program import Program

ECHO = """
import json, sys
for line in sys.stdin:
    print(json.dumps(json.loads(line).upper()))
"""


def run_files(
    script: bytes,
    payload: bytes,
    model: Path,
    inputs: Sequence[str],
    limits: Limits,
    train: bytes | None = None,
) -> list[str]:
    """Return the outputs of a program in an interpreter of its own; see `Sandbox.run`."""
    with Sandbox(1, fresh=True) as sandbox:
        return sandbox.run(script, payload, model, inputs, limits, train)


def printed(
    programs: Mapping[str, Program], model: Path, inputs: Sequence[str]
) -> dict[str, list[str]]:
    """Return what each program prints for the inputs."""
    with Sandbox(threads=1) as sandbox:
        return {
            name: sandbox.run(
                program.script, program.payload, model, inputs, Limits(), has_adapter=True
            )
            for name, program in programs.items()
        }
