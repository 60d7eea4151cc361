"""Programs run one after the other in a process of their own, where our packages can't be imported.

A process each takes seconds; that a program needs no other before it is tested elsewhere.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kilobit.evaluators.proof.sandbox import _GUARD
from kilobit.search.programs.program import Program


def printed(
    programs: Mapping[str, Program], model: Path, inputs: Sequence[str], scratch: Path
) -> dict[str, list[str]]:
    """Return what each program prints for the inputs."""
    hide = _GUARD[_GUARD.index("class Hidden") : _GUARD.index("sys.argv =")]
    code = f"""
import os, runpy, sys
{hide}
model, folders = sys.argv[1], sys.argv[2:]
for folder in folders:
    os.chdir(folder)
    sys.argv = ["program.py", model]
    with open("in") as sys.stdin, open("out", "w") as sys.stdout:
        runpy.run_path("program.py", run_name="__main__")
"""
    folders = {name: scratch / str(number) for number, name in enumerate(programs)}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "program.py").write_bytes(programs[name].script)
        (folder / "payload.bin").write_bytes(programs[name].payload)
        (folder / "in").write_text("".join(json.dumps(text) + "\n" for text in inputs))
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(model), *map(str, folders.values())],
        env={**environment, "TOKENIZERS_PARALLELISM": "false", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        name: [json.loads(line) for line in (folder / "out").read_text().splitlines()]
        for name, folder in folders.items()
    }
