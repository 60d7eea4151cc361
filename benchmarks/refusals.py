"""What a refusal costs: processor seconds until the message of a mistake that needs no model.

    python benchmarks/refusals.py

Prints user and system seconds of the command for each refusal, as the median of three after one
that writes the bytecode, and the libraries of `HEAVY` that it imported.
`tests/test_launch_refusals.py` runs the same table and fails where one imports a library of `HEAVY`
that is not allowed there.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = frozenset(
    (
        "accelerate",
        "datasets",
        "deepspeed",
        "huggingface_hub",
        "matplotlib",
        "nltk",
        "numpy",
        "optuna",
        "pandas",
        "peft",
        "plotly",
        "pyarrow",
        "ray",
        "rich",
        "sacrebleu",
        "scipy",
        "sklearn",
        "sympy",
        "tensorboard",
        "torch",
        "transformers",
        "unittest",
    )
)
# Checks of models and data show that they run.
SHOWN = frozenset({"rich"})
CHILD = """
import json, resource, sys
from kilobit import launch
try:
    status = launch.main(sys.argv[2:])
except SystemExit as error:
    status = error.code
used = resource.getrusage(resource.RUSAGE_SELF)
found = {
    "status": status,
    "cpu_s": used.ru_utime + used.ru_stime,
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
}
open(sys.argv[1], "w").write(json.dumps(found))
"""
SWEEP = """\
name: refused
task: {kind: miniature, name: numbers}
base_models:
  - {regime: pretrained, path: model}
families: {prompt: {candidates: 3}}
rungs: {examples: 18}
"""
# A folder that passes for a model as long as nothing is read from it.
MODEL = {"model/config.json": "{}", "model/model.safetensors": ""}
LINES = '{"input": "a", "target": "b"}\n'


@dataclass(frozen=True)
class Refusal:
    """A mistake and the message that it causes.

    Attributes:
        words: the command line; `good.yaml` is a sweep file without a mistake but for its model.
        says: a part of the output.
        files: further files, by name.
        allowed: libraries of `HEAVY` that may be imported.
        status: the exit status.
    """

    words: str
    says: str
    files: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    status: int = 2


def changed(old: str, new: str) -> dict[str, str]:
    """Return the sweep file with a mistake."""
    assert old in SWEEP
    return {"bad.yaml": SWEEP.replace(old, new)}


NO_RUN = "no such folder"
REFUSALS = {
    "help": Refusal("--help", "examples:", status=0),
    "help of a command": Refusal("run --help", "--dry-run", status=0),
    "no command": Refusal("", "required: COMMAND"),
    "unknown command": Refusal("rnu x.yaml", "invalid choice: 'rnu'"),
    "unknown option": Refusal("run good.yaml --contine", "unrecognized arguments: --contine"),
    "value of an option": Refusal("certify x --timeout ten", "whole seconds"),
    "missing sweep file": Refusal("run none.yaml", "none.yaml"),
    "bad YAML": Refusal("run bad.yaml", "bad.yaml", {"bad.yaml": "name: [\n"}),
    "unknown key": Refusal(
        "run bad.yaml", "unknown key 'seeed'", {"bad.yaml": SWEEP + "seeed: 1\n"}
    ),
    "unknown key deep down": Refusal(
        "run bad.yaml", "Did you mean 'candidates'?", changed("candidates", "candidate")
    ),
    "wrong value": Refusal("run bad.yaml", "rungs.examples", changed("18", "many")),
    "missing key": Refusal("run bad.yaml", "families", changed("families", "famlies")),
    "wrong kind": Refusal(
        "run bad.yaml", "random", {"bad.yaml": SWEEP + "proposer: {kind: magic}\n"}
    ),
    "wrong override": Refusal("run good.yaml rungs.examples=no", "rungs.examples"),
    "override without a key": Refusal("run good.yaml seedd=1", "seedd"),
    "take over without continue": Refusal("run good.yaml --take-over", "belongs to --continue"),
    "dry run of a wrong key": Refusal(
        "run bad.yaml --dry-run", "unknown key", {"bad.yaml": SWEEP + "seeed: 1\n"}
    ),
    "missing model": Refusal("run good.yaml", "there is no folder", allowed=SHOWN),
    "too many examples": Refusal(
        "run good.yaml rungs.count=9",
        "the last rung scores",
        MODEL,
        allowed=SHOWN,
    ),
    "missing data": Refusal(
        "run bad.yaml",
        "none.jsonl",
        MODEL
        | changed(
            "kind: miniature, name: numbers",
            "kind: jsonl, name: x, metric: exact_match, data: none.jsonl, question: '{input}'",
        ),
        allowed=SHOWN,
    ),
    "folder that is taken": Refusal(
        "run good.yaml --out taken",
        "neither empty nor a run",
        {"taken/thesis.tex": "x"},
    ),
    "resume without a run": Refusal("resume NOT_A_RUN", NO_RUN),
    "status without a run": Refusal("status NOT_A_RUN", NO_RUN),
    "front without a run": Refusal("front NOT_A_RUN", NO_RUN),
    "front of a folder without a run": Refusal("front other", "holds no run", {"other/x": ""}),
    "report without a run": Refusal("report NOT_A_RUN", NO_RUN),
    "verify without a run": Refusal("verify NOT_A_RUN", "NOT_A_RUN"),
    "certify without a run": Refusal("certify NOT_A_RUN", NO_RUN),
    "scorecard without a run": Refusal("scorecard NOT_A_RUN", NO_RUN),
    "aggregate without a run": Refusal("aggregate NOT_A_RUN -o all", NO_RUN),
    "aggregate of nothing": Refusal("aggregate -o all", "--import"),
    "export without a program": Refusal(
        "export NOTHING --peft out --model model", "NOTHING holds no program"
    ),
    "compare without a judge": Refusal(
        "compare a.jsonl a.jsonl --judge none.yaml",
        "none.yaml",
        {"a.jsonl": LINES},
        frozenset({"numpy", "rich"}),
    ),
    "slurm with a wrong key": Refusal(
        "slurm bad.yaml --print", "unknown key", {"bad.yaml": SWEEP + "seeed: 1\n"}
    ),
    "slurm without a sweep file": Refusal("slurm none.yaml --print", "none.yaml"),
    "kubernetes with a wrong key": Refusal(
        "kubernetes bad.yaml --print", "unknown key", {"bad.yaml": SWEEP + "seeed: 1\n"}
    ),
    "kubernetes without an image": Refusal("kubernetes good.yaml --print", "kubernetes.image"),
}


@dataclass(frozen=True)
class Refused:
    """Exit status, output, processor seconds and top-level modules of a command."""

    status: int
    output: str
    cpu_s: float
    modules: frozenset[str]


def refuse(refusal: Refusal) -> Refused:
    """Run a refusal in a new process and folder, with bytecode as after an installation."""
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"good.yaml": SWEEP, **refusal.files}.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        told = Path(folder, "told.json")
        done = subprocess.run(
            [sys.executable, "-c", CHILD, told, *refusal.words.split()],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env=kept | {"PYTHONPATH": str(ROOT)},
        )
        if not told.exists():
            raise RuntimeError(f"kilobit {refusal.words}: {done.stderr}")
        found = json.loads(told.read_text("utf-8"))
    output = done.stdout + done.stderr
    return Refused(found["status"], output, found["cpu_s"], frozenset(found["modules"]))


def main() -> None:
    """Print a line for each refusal, the slowest last."""
    rows = []
    for name, refusal in REFUSALS.items():
        runs = [refuse(refusal) for _ in range(4)][1:]
        cpu_s = statistics.median(run.cpu_s for run in runs)
        right = runs[0].status == refusal.status and refusal.says in runs[0].output
        rows.append((cpu_s, name, ", ".join(sorted(runs[0].modules & HEAVY)), right))
    print("| refusal | processor s | imports |\n|---|---|---|")
    for cpu_s, name, heavy, right in sorted(rows):
        print(f"| {name} | {cpu_s:.2f} | {heavy} |" + ("" if right else " OTHER MESSAGE"))


if __name__ == "__main__":
    main()
