"""The batch script of a job, and what is refused before there is one."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kilobit.cluster.launchers.launcher import Sweeps
from kilobit.cluster.launchers.slurm import Job, Slurm
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.launch import main
from kilobit.search.settings import InputError
from tests.conftest import REPOSITORY

Write = Callable[..., Path]
GOLDEN = Path(__file__).parent / "golden.sbatch"
BODY = REPOSITORY / "cluster" / "launchers" / "slurm_job.sh"
FULL = {
    "nodes": "2-4",
    "partition": "gpu",
    "account": "physics",
    "qos": "long",
    "time": "1-12:00:00",
    "gpus_per_node": 4,
    "cpus_per_node": 32,
    "memory_gib": 100.5,
    "container": "apptainer exec --nv kilobit.sif",
    "setup": ["module load cuda", 'export HF_HOME="$HOME/hub"'],
    "directives": ["--constraint=h100&ib", "--exclusive"],
    "warning_s": 300,
    "keep_rest": True,
    "interface": "ib0",
    "scratch": "/local",
}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(path: Path, *overrides: str, chain: int = 1, out: Path | None = None) -> Job:
    return plan_all([path], overrides, out, chain)


def plan_all(
    paths: Sequence[Path], overrides: Sequence[str] = (), out: Path | None = None, chain: int = 1
) -> Job:
    return Slurm(chain).plan(Sweeps.of([*map(str, paths), *overrides], out))


def script_of(job: Job) -> str:
    return Slurm().render(job)


def test_the_head_of_a_script_is_as_it_was(write_sweep: Write, tmp_path: Path) -> None:
    path = write_sweep(slurm=FULL, workers={"gpus": 1, "per_model": 4})
    script = script_of(plan(path, "seed=3", "slurm.qos=short", out=tmp_path / "my run"))
    head, body = script.split("# ---- Everything above", 1)
    assert head == GOLDEN.read_text("utf-8")
    assert BODY.read_text("utf-8").endswith(body)


def test_a_script_holds_nothing_of_the_machine_that_made_it(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 2)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = write_sweep()
    other = tmp_path / "there"
    other.mkdir()
    monkeypatch.chdir(other)
    script = script_of(plan(path.absolute(), "seed=1", out=Path("out").absolute()))
    for word in (str(tmp_path), str(Path.home()), os.uname().nodename, sys.prefix, "hf_secret"):
        assert word not in script
    assert "0123456789abcdef" not in script
    assert "sweeps=(../sweep.yaml)" in script
    assert "outs=(out)" in script


@pytest.mark.parametrize("chain", [1, 3])
def test_shellcheck_finds_nothing(write_sweep: Write, tmp_path: Path, chain: int) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text(script_of(plan(write_sweep(slurm=FULL), chain=chain)), "utf-8")
    lab = REPOSITORY / "tests" / "support" / "launchers" / "slurm_lab.sh"
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert checker is not None
    done = subprocess.run(
        [checker, str(script), str(lab)], check=False, capture_output=True, text=True
    )
    assert not done.stdout + done.stderr


def test_words_of_the_user_stay_words(write_sweep: Write, tmp_path: Path) -> None:
    path = write_sweep()
    odd = tmp_path / "it's $(touch ran).yaml"
    path.rename(odd)
    script = tmp_path / "job.sh"
    head, _ = script_of(plan(odd, 'name="a"', out=tmp_path / "`touch ran`;")).split("# ----", 1)
    script.write_text(head + 'printf \'%s\\n\' "${sweeps[@]}" "${outs[@]}" "${overrides[@]}"')
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [odd.name, "`touch ran`;", 'name="a"']
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="line breaks"):
        plan(odd, 'name="a\nb"')


def test_the_workers_say_how_large_a_job_is(write_sweep: Write) -> None:
    shards = {"gpus": 1, "shards": {"world_size": 8}, "per_model": 2, "cpus": 3}
    path = write_sweep(workers=shards)
    job = plan(path)
    assert (job.nodes, job.gpus) == ("1", 16)
    job = plan(path, "slurm.gpus_per_node=8")
    assert (job.nodes, job.gpus, job.cpus) == ("2", 8, 24)
    assert plan(path, "slurm.nodes=4").gpus == 4
    job = plan(write_sweep(workers={"per_model": 3}), "slurm.cpus_per_node=2")
    assert (job.nodes, job.gpus, job.cpus) == ("2", 0, 2)
    path = write_sweep(workers={"per_model": 3, "gpus": 0.5})
    assert plan(path, "slurm.gpus_per_node=1").nodes == "2"


def test_models_with_workers_of_their_own_share_the_nodes_of_a_job(write_sweep: Write) -> None:
    (model,) = load_sweep(write_sweep()).base_models
    large = {"gpus": 1, "shards": {"world_size": 8}}
    models = [
        {**model.model_dump(mode="json"), "name": name, "workers": own}
        for name, own in (("judge", {"per_model": 3}), ("large", large))
    ]
    path = write_sweep(workers={"gpus": 1}, base_models=models)
    job = plan(path, "slurm.gpus_per_node=8")
    assert (job.nodes, job.gpus) == ("2", 8)
    # One after the other they need one node.
    assert plan(path, "slurm.gpus_per_node=8", "slurm.nodes=1").nodes == "1"
    with pytest.raises(InputError, match="1 nodes with 4 GPUs each have no room for 8 ranks"):
        plan(path, "slurm.gpus_per_node=4", "slurm.nodes=1")


def test_a_job_without_a_place_for_its_workers_is_refused(write_sweep: Write) -> None:
    path = write_sweep(workers={"gpus": 1, "per_model": 4, "min_per_model": 3})
    assert plan(path, "slurm.nodes=3", "slurm.gpus_per_node=1").gpus == 1
    assert plan(path, "slurm.nodes=1-3", "slurm.gpus_per_node=1").nodes == "1-3"
    with pytest.raises(InputError, match="2 nodes with 1 GPUs each have no room for 3 ranks"):
        plan(path, "slurm.nodes=2", "slurm.gpus_per_node=1")
    with pytest.raises(InputError, match="more than gpus_per_node"):
        plan(path, "slurm.gpus_per_node=0")


def test_several_sweeps_are_one_array(write_sweep: Write, tmp_path: Path) -> None:
    first = write_sweep().rename(tmp_path / "a.yaml")
    second = write_sweep(name="other", workers={"per_model": 3})
    job = plan_all([first, second], ["seed=2"], tmp_path / "runs")
    script = script_of(job)
    assert "#SBATCH --array=0-1\n" in script
    assert "sweeps=(a.yaml sweep.yaml)\nouts=(runs/small runs/other)\n" in script
    assert job.cpus == 3
    with pytest.raises(InputError, match="two of these sweeps are called 'small'"):
        plan_all([first, first])
    with pytest.raises(InputError, match="a job has only one"):
        plan_all([first, write_sweep(name="x", slurm={"nodes": 2})])
    with pytest.raises(InputError, match="--chain takes one"):
        plan_all([first, second], chain=2)


def test_a_chain_is_not_requeued_and_what_is_not_to_be_requeued_stops(write_sweep: Write) -> None:
    path = write_sweep()
    for job, option, follows in (
        (plan(path), "--requeue", "requeue"),
        (plan(path, chain=2), "--no-requeue", "chain"),
        (plan(path, "slurm.requeue=false"), "--no-requeue", "stop"),
    ):
        assert f"#SBATCH {option}\n" in script_of(job)
        assert f"afterwards={follows}\n" in script_of(job)


def test_a_profile_gives_what_the_sweep_does_not_say(
    write_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(slurm={"partition": "own"})
    profile = str(REPOSITORY / "examples" / "profiles" / "slurm.yaml")
    assert main(["slurm", str(path), "--profile", profile, "--print", "slurm.nodes=3"]) == 0
    shown = capsys.readouterr().out
    assert "--partition=own\n" in shown
    assert "--nodes=3\n" in shown
    assert "--time=12:00:00\n" in shown
    Path("profile.yaml").write_text("nodes: 1\nparttion: gpu\n")
    assert main(["slurm", str(path), "--profile", "profile.yaml", "--print"]) == 2
    assert "profile.yaml, line 2: unknown key 'parttion'" in capsys.readouterr().err


def test_without_slurm_the_script_can_be_printed_only(
    write_sweep: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["slurm", str(write_sweep())]) == 2
    assert "--print" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_commands_of_the_page_work(
    write_sweep: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b", "a", "my"):
        write_sweep(name=name).rename(tmp_path / f"{name}.yaml")
    shutil.copy(REPOSITORY / "examples" / "profiles" / "slurm.yaml", tmp_path)
    page = (REPOSITORY / "docs" / "slurm.md").read_text("utf-8")
    commands = re.findall(r"^    kilobit (slurm .*?)(?: >.*|   .*)?$", page, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        assert main([*command.removesuffix(" --print").split(), "--print"]) == 0
        assert capsys.readouterr().out.startswith("#!/usr/bin/env bash\n")


def started(script: str, folder: Path, restarts: int, **environ: str) -> dict[str, str]:
    """Run the script of a job up to its run, and return the words that it would give to it."""
    head, body = script.split("# ---- Everything above", 1)
    first = body[: body.index("# A new token")]
    (found,) = re.findall(r"^job=.*?\n\ndriver=|^job=.*?(?=^driver=)", body, re.M | re.S)
    last = body[body.index("# Not from SLURM_RESTART_COUNT") : body.index("status=130")]
    (folder / "scontrol").write_text(f"#!/bin/sh\necho $* >asked; echo '  Restarts={restarts} x'\n")
    (folder / "scontrol").chmod(0o755)
    tail = 'printf "%s\\n" "$job" "$index" "${SLURM_GPUS_ON_NODE:-0}" "$*"'
    done = subprocess.run(
        ["bash", "-u", "-c", f"{head}\n#{first}\n{found}\n{last}\n{tail}"],
        cwd=folder,
        env=environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "9"},
        capture_output=True,
        text=True,
        check=True,
    )
    names = ("job", "index", "gpus", "words")
    return dict(zip(names, done.stdout.split("\n"), strict=False))


INHERITED = {
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_ARRAY_TASK_MAX": "1",
    "SLURM_RESTART_COUNT": "2",
    "SLURM_GPUS_ON_NODE": "4",
}


def test_a_job_that_is_submitted_inside_an_array_is_itself(
    write_sweep: Write, tmp_path: Path
) -> None:
    script = script_of(plan(write_sweep()))
    alone = {"job": "9", "index": "0", "gpus": "0", "words": ""}
    assert started(script, tmp_path, 0) == alone
    assert started(script, tmp_path, 0, **INHERITED) == alone
    # Only a restart of this job takes its run over.
    assert started(script, tmp_path, 1) == alone | {"words": "--take-over"}
    with_gpus = script_of(plan(write_sweep(workers={"gpus": 1})))
    assert started(with_gpus, tmp_path, 0, SLURM_GPUS_ON_NODE="1")["gpus"] == "1"


def test_an_element_of_our_array_knows_its_number(write_sweep: Write, tmp_path: Path) -> None:
    first = write_sweep().rename(tmp_path / "a.yaml")
    script = script_of(plan_all([first, write_sweep(name="other")], out=tmp_path / "runs"))
    found = started(script, tmp_path, 3, **INHERITED)
    assert found == {
        "job": "7_1", "index": "1", "gpus": "0", "words": "--take-over --out runs/other"
    }  # fmt: skip
    assert (tmp_path / "asked").read_text() == "show job 7_1\n"


def test_a_head_that_ray_gave_up_on_is_started_again(tmp_path: Path) -> None:
    # Ray waits 30 s for its own start; here it fails twice and then answers.
    ray = tmp_path / "ray"
    ray.write_text(
        "#!/usr/bin/env bash\necho try >>tries\n"
        "for word; do case $word in --temp-dir=*) at=${word#*=}; esac; done\n"
        '[ "$(wc -l <tries)" = 3 ] || exit 1\n'
        'mkdir "$at"; echo 1.2.3.4:5 >"$at/ray_current_cluster"; exec sleep 60\n'
    )
    ray.chmod(0o755)
    functions = [
        re.search(rf"^{name}\(\) \{{.*?^\}}", BODY.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for name in ("remove", "ray_node")
    ]
    script = "\n".join(["setup() { :; }", "container=()", *(f[0] for f in functions if f)])
    (tmp_path / "head" / "r").mkdir(parents=True)
    environ = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "2", "SLURMD_NODENAME": "n1"}
    head = subprocess.Popen(
        ["bash", "-c", f"{script.replace('ray start', './ray start')}\nray_node . 0 head --head"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        text=True,
    )
    address = tmp_path / "head" / "r" / "ray_current_cluster"
    while head.poll() is None and not address.exists():
        time.sleep(0.1)
    assert address.exists(), head.communicate("")
    # The end of the input ends Ray, and its folder goes.
    _, said = head.communicate("")
    assert said.count("Ray ended on n1") == 2
    assert (tmp_path / "tries").read_text() == "try\n" * 3
    assert not (tmp_path / "head").exists()
