"""Files between the arguments of `run` and a worker's first pass over a model.

    python benchmarks/walk.py

Counts while a small search runs. Three calls lead a candidate from process to process: the driver
hands the search to Ray Tune, a trial calls its worker, and the worker runs its model. At the first
of each, the files of this project on the stack are noted, so a file counts if the call passes
through it: a reader who follows the arguments opens these files in this order. Not counted are
calls that have returned before (the checks of the sweep file, reading settings, loading a model)
and modules of which only a type is used.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Runs in every process at its start, and notes the first call through each of these files.
HOOK = """
import importlib.abc, importlib.util, os, sys

FOLDER, ROOT = os.environ["WALK_FOLDER"], os.environ["WALK_ROOT"]
CALLS = {
    "ray.tune.execution.tune_controller": ("TuneController", "step", "cluster/driver/tune.py"),
    "ray.actor": ("ActorMethod", "remote", "cluster/driver/trial.py"),
    "torch.nn.modules.module": ("Module", "__call__", "cluster/worker/run_rung.py"),
}


def files():
    frame, found = sys._getframe(2), []
    while frame is not None:
        file = os.path.realpath(frame.f_code.co_filename)
        if file.startswith(ROOT + os.sep):
            found.insert(0, os.path.relpath(file, ROOT))
        frame = frame.f_back
    return list(dict.fromkeys(found))


def watch(owner, method, through):
    old = getattr(owner, method)

    def noting(*args, **kwargs):
        found = files()
        if through in found:
            setattr(owner, method, old)
            with open(f"{FOLDER}/{owner.__name__}.{os.getpid()}", "w") as out:
                out.write("\\n".join(found))
        return old(*args, **kwargs)

    setattr(owner, method, noting)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in CALLS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run, (owner, method, through) = spec.loader.exec_module, CALLS[name]

        def exec_module(module):
            run(module)
            watch(getattr(module, owner), method, through)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""


def main() -> None:
    """Print the files and their number."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "sitecustomize.py").write_text(HOOK, "utf-8")
        words = ["run", "examples/quickstart.yaml", "--out", str(folder / "run")]
        words += ["families.prompt.candidates=1", "families.lora.candidates=1"]
        told = {"PYTHONPATH": str(folder), "WALK_FOLDER": str(folder), "WALK_ROOT": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "launch.py", *words],
            cwd=ROOT,
            env=os.environ | told,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        walked: list[str] = []
        for call in ("TuneController", "ActorMethod", "Module"):
            # Several workers and trials: the longest way.
            noted = [path.read_text("utf-8").split("\n") for path in folder.glob(f"{call}.*")]
            walked += max(noted, key=len)
    walked = list(dict.fromkeys(walked))
    print("\n".join(walked))
    print(f"{len(walked)} files")


if __name__ == "__main__":
    main()
