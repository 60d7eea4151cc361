"""How many files lie between the arguments of `run` and a worker's first pass over a model.

    python benchmarks/walk.py

Starts a small search and notes the files of this project on the stack at three calls, which are the
way of a candidate through the processes: the driver hands the search to Ray Tune, a trial calls its
worker, and the worker runs the model for a candidate. A reader who follows the arguments opens
these files, in this order. Not counted are the checks of the sweep file before, which nothing
follows, and the definitions of records and settings.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Runs in every process at its start; each call is noted once a process.
HOOK = """
import importlib.abc, os, sys, traceback
FOLDER, ROOT = os.environ["WALK_FOLDER"], os.environ["WALK_ROOT"]

def note(name):
    files = []
    for frame in traceback.extract_stack():
        file = os.path.realpath(frame.filename)
        if file.startswith(ROOT) and file != os.path.realpath(__file__) and file not in files:
            files.append(file)
    with open(f"{FOLDER}/{name}.{os.getpid()}", "a") as out:
        out.write("\\n".join(os.path.relpath(file, ROOT) for file in files) + "\\n\\n")

WRAPPED = {
    "ray.tune.tuner": ("Tuner", "fit", "1-driver"),
    "ray.actor": ("ActorMethod", "_remote", "2-trial"),
    "torch.nn.modules.module": ("Module", "__call__", "3-worker"),
}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in WRAPPED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            owner, method, label = WRAPPED[name]
            owner = getattr(module, owner)
            old = getattr(owner, method)
            def new(*args, **kwargs):
                note(label)
                setattr(owner, method, old) if label == "1-driver" else None
                return old(*args, **kwargs)
            setattr(owner, method, new)
        spec.loader.exec_module = exec_module
        return spec

import importlib.util
sys.meta_path.insert(0, Finder())
"""


def stacks(folder: Path, name: str) -> list[list[str]]:
    """Return the noted stacks of a call, outermost file first."""
    texts = [path.read_text("utf-8") for path in sorted(folder.glob(f"{name}.*"))]
    return [part.split("\n") for text in texts for part in text.split("\n\n") if part]


def main() -> None:
    """Print the files and their number."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "sitecustomize.py").write_text(HOOK, "utf-8")
        words = ["run", "examples/quickstart.yaml", "--out", str(folder / "run")]
        words += ["families.prompt.candidates=1", "families.lora.candidates=1"]
        environment = os.environ | {
            "PYTHONPATH": str(folder),
            "WALK_FOLDER": str(folder),
            "WALK_ROOT": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "launch.py", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        driver = stacks(folder, "1-driver")[0]
        trial = next(s for s in stacks(folder, "2-trial") if "cluster/driver/trial.py" in s)
        worker = next(s for s in stacks(folder, "3-worker") if "cluster/worker/run_rung.py" in s)
    walked = list(dict.fromkeys([*driver, *trial, *worker]))
    for file in walked:
        print(file)
    print(f"{len(walked)} files")


if __name__ == "__main__":
    main()
