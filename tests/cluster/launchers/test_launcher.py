"""One contract for the three places where runs start: this machine, Slurm and Kubernetes."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilobit.cluster.launchers.kubernetes import Kubernetes
from kilobit.cluster.launchers.launcher import Launcher, Local, Sweeps, launch
from kilobit.cluster.launchers.slurm import Slurm
from kilobit.cluster.requests import KubernetesRequest
from kilobit.evaluators.ledger.storage import place
from kilobit.launch import parse
from kilobit.search.settings import InputError

STORE = "s3://bucket/runs"
SLURM = """echo "sbatch $@" >>log
for file; do :; done
[ ! -f broken ] || { echo 'sbatch: error: no' >&2; exit 1; }
/bin/cp "$file" submitted; echo 7"""
SINFO = "echo 'gpu*|9|64|64000|gpu:h100:8|1:00:00|idle|(null)|up'"
KUBECTL = """case "$*" in
  *api-resources*) echo rayjobs.ray.io; exit ;;
  *dry-run*) ;;
  *) echo 'the first object' >made ;;
esac
[ ! -f broken ] || { echo 'error: no' >&2; exit 1; }
echo "kubectl $@" >>log; /bin/cat >submitted; echo rayjob.ray.io/small created"""


@dataclass(frozen=True)
class Lab:
    """A launcher, and what runs of its text.

    Attributes:
        launcher: the launcher.
        commands: returns the words after `kilobit` of each run that a text starts.
        options: what these words have besides those of the plan.
        handles: what two runs are called when they are submitted.
    """

    launcher: Launcher[Any]
    commands: Callable[[str], list[list[str]]]
    options: tuple[str, ...]
    handles: tuple[str, ...]


def started(script: str, **environ: str) -> list[list[str]]:
    """Return the words with which a script calls kilobit."""
    stub = 'kilobit() { printf "%s\\0" "$@"; printf "\\n"; }\n'
    done = subprocess.run(
        ["bash", "-c", stub + script], env=environ, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return [line.split("\0")[:-1] for line in done.stdout.split("\n")[:-1]]


def of_job(text: str) -> list[list[str]]:
    head, body = text.split("# ---- ", 1)
    found = re.search(
        r"^index=.*?^(?=status)|^  \"\$\{container\[@\]\}\" kilobit run", body, re.M | re.S
    )
    call = re.search(r'kilobit run .*?"\$\{overrides\[@\]\}"', body, re.S)
    assert found
    assert call
    number = len(re.findall(r"--array=0-(\d)", head)) + 1
    script = f"{head}address=HERE\n{found[0]}{call[0]}"
    return [run for i in range(number) for run in started(script, SLURM_ARRAY_TASK_ID=str(i))]


def of_manifests(text: str) -> list[list[str]]:
    jobs = [one for one in yaml.safe_load_all(text) if one["kind"] == "RayJob"]
    return [run for job in jobs for run in started(job["spec"]["entrypoint"])]


@pytest.fixture(params=["local", "slurm", "kubernetes"])
def lab(request: pytest.FixtureRequest) -> Lab:
    if request.param == "slurm":
        return Lab(Slurm(), of_job, ("--continue", "--address", "HERE"), ("7",))
    if request.param == "kubernetes":
        options = ("--continue", "--take-over", "--address", "auto")
        return Lab(Kubernetes(), of_manifests, options, ("rayjob.ray.io/small",))
    return Lab(Local(execute), started, (), ("0", "0"))


def execute(words: Sequence[str]) -> int:
    if Path("broken").exists():
        raise InputError("no cluster answers: no")
    with Path("log").open("a") as log:
        print("kilobit", *words, file=log)
    return 0


@pytest.fixture(autouse=True)
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put programs of both clusters on the path; they fail where there is a file `broken`."""
    (tmp_path / "bin").mkdir()
    for name, script in {"sbatch": SLURM, "sinfo": SINFO, "kubectl": KUBECTL}.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def write(name: str = "small", path: str | None = None, **changes: Any) -> str:
    sweep = {
        "name": name,
        "task": {"kind": "miniature", "name": "numbers"},
        "base_models": [{"regime": label, "hub": f"org/{label}"} for label in ("a", "b")],
        "families": {"prompt": {"candidates": 3}},
        "kubernetes": {"image": "kilobit:1", "claim": "runs"},
        **changes,
    }
    file = Path(path or f"{name}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(sweep))
    return str(file)


def files() -> dict[str, str]:
    return {str(file): file.read_text() for file in Path().rglob("*") if file.is_file()}


def test_the_same_sweeps_are_the_same_runs(lab: Lab) -> None:
    words = [write(), write("other", workers={"per_model": 3}), "seed=3"]
    plan = lab.launcher.plan(Sweeps.of(words, place(STORE)), None)
    found = [(run.name, run.overrides, run.out) for run in plan.runs]
    seed = ("seed=3",)
    assert found == [("small", seed, f"{STORE}/small"), ("other", seed, f"{STORE}/other")]


@pytest.mark.parametrize("out", [STORE, None])
def test_the_text_runs_the_command_that_is_run_on_this_machine(lab: Lab, out: str | None) -> None:
    words = [write(), write("other"), "seed=3", "budget.seconds=60"]
    sweeps = Sweeps.of(words, None if out is None else place(out))
    plan = lab.launcher.plan(sweeps, None)
    found = lab.commands(lab.launcher.render(plan))
    here = Local(execute).plan(sweeps).runs
    for run, local, argv in zip(plan.runs, here, found, strict=True):
        command = list(run.command[1:])
        if out is None and isinstance(lab.launcher, Slurm):
            # The job runs in the folder of the submission, where this is the default.
            assert command[-2:] == ["--out", f"runs/{run.name}"]
            del command[-2:]
        assert sorted(argv) == sorted([*command, *lab.options])
        asked, same = parse(argv), parse(local.command[1:])
        assert asked.overrides == same.overrides == ("seed=3", "budget.seconds=60")
        assert asked.sweep.name == same.sweep.name
        assert out is None or asked.out == same.out


@pytest.mark.parametrize("path", ["a=b/q.yaml", "two words/q.yaml", "it's $(touch ran)/`x`;.yaml"])
def test_a_path_with_signs_of_the_shell_works(lab: Lab, path: str) -> None:
    file = write(path=path)
    text = lab.launcher.render(lab.launcher.plan(Sweeps.of([file, "seed=3"]), None))
    (argv,) = lab.commands(text)
    asked = parse(argv)
    if isinstance(lab.launcher, Kubernetes):
        # The pods see a copy.
        assert str(asked.sweep) == "/sweep/small.yaml"
        copy = next(yaml.safe_load_all(text))["data"]["small.yaml"]
        assert copy == Path(file).read_text()
    else:
        assert asked.sweep.absolute() == Path(file).absolute()
    assert asked.overrides == ("seed=3",)
    assert not Path("ran").exists()


def test_what_no_place_can_run_is_refused_in_the_same_words(lab: Lab) -> None:
    def refusal(*words: str) -> str:
        with pytest.raises(InputError) as error:
            lab.launcher.plan(Sweeps.of(words), None)
        return str(error.value)

    file = write()
    copy = write("small", "copy.yaml")
    assert refusal("seed=1") == "no sweep file is given"
    assert refusal("a\nb.yaml").startswith("'a\\nb.yaml': no line breaks")
    assert refusal("none.yaml") == "none.yaml: No such file or directory"
    assert refusal(file, copy) == "two of these sweeps are called 'small': give each its own name"
    assert refusal(file, "sede=1").startswith("command line: unknown key 'sede'")


def test_what_is_submitted_is_what_is_printed(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    words = (write(), write("other"))
    assert launch(lab.launcher, KubernetesRequest(words=words, only_print=True)) == 0
    printed = capsys.readouterr().out
    assert set(files()) == set(words)
    plan = lab.launcher.plan(Sweeps.of(words), None)
    launched = lab.launcher.submit(plan)
    assert (launched.handles, launched.status) == (lab.handles, 0)
    if isinstance(lab.launcher, Local):
        assert Path("log").read_text() == printed
    else:
        assert Path("submitted").read_text() == printed


@pytest.mark.parametrize("broken", [True, False])
def test_where_nothing_can_be_submitted_there_is_one_message_and_no_trace(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    plan = lab.launcher.plan(Sweeps.of([write(), write("other")]), None)
    if broken or isinstance(lab.launcher, Local):
        Path("broken").touch()
    else:
        monkeypatch.setenv("PATH", os.devnull)
    before = files()
    with pytest.raises(InputError, match=r"says: |answers: |is not on this machine: ") as error:
        lab.launcher.submit(plan)
    assert len(str(error.value).splitlines()) == 1
    Path("log").unlink(missing_ok=True)
    assert files() == before


def test_a_refused_job_leaves_the_script_of_the_one_before() -> None:
    script = Path("runs/small.sbatch")
    script.parent.mkdir()
    script.write_text("before")
    Path("broken").touch()
    with pytest.raises(InputError, match="sbatch says: no"):
        Slurm().submit(Slurm().plan(Sweeps.of([write()])))
    assert script.read_text() == "before"
