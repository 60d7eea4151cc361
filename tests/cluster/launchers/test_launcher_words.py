"""Words of a command line, paths that are on a store, and profiles that a sweep overrides."""

from pathlib import Path

import pytest
import yaml

from kilobit import launch
from kilobit.cluster.launchers.launcher import Sweeps, with_profile
from kilobit.cluster.sweep.launch_targets import KubernetesConfig, SlurmConfig
from kilobit.search.settings import InputError
from tests.conftest import REPOSITORY

QUICKSTART = (REPOSITORY / "examples" / "quickstart.yaml").read_text("utf-8")
POD = {"image": "kilobit:1", "claim": "runs"}


@pytest.fixture
def odd_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the relative path of a sweep file whose folder has `=` in its name."""
    monkeypatch.chdir(tmp_path)
    sweep = yaml.safe_load(QUICKSTART)
    sweep["base_models"] = [{"regime": "pretrained", "hub": "org/model"}]
    (tmp_path / "a=b").mkdir()
    (tmp_path / "a=b" / "q.yaml").write_text(yaml.safe_dump({**sweep, "kubernetes": POD}))
    return "a=b/q.yaml"


def test_a_word_with_an_equals_sign_is_a_file_if_it_names_one(odd_file: str) -> None:
    sweeps = Sweeps.of([odd_file, "seed=3", "other.yaml", "a=c/q.yaml"])
    assert sweeps.files == (Path(odd_file), Path("other.yaml"))
    assert sweeps.overrides == ("seed=3", "a=c/q.yaml")


@pytest.mark.parametrize("command", ["kubernetes", "slurm"])
def test_a_sweep_file_below_a_folder_with_an_equals_sign_is_printed(
    command: str, odd_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main([command, odd_file, "--print", "seed=3"]) == 0
    printed = capsys.readouterr().out
    assert {"kubernetes": "kind: RayJob", "slurm": "a=b/q.yaml"}[command] in printed
    assert "seed=3" in printed


def test_a_slurm_job_keeps_the_url_of_its_run(
    odd_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["slurm", odd_file, "--print", "--out", "s3://bucket/runs/q"]) == 0
    assert "outs=(s3://bucket/runs/q)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["scorecard", "s3://bucket/run"],
        ["run", "s3://bucket/sweep.yaml"],
        ["kubernetes", "s3://bucket/sweep.yaml"],
        ["aggregate", "run", "--import", "s3://bucket/points.csv", "-o", "all"],
        ["compare", "a", "b", "--judge", "gs://bucket/judge.yaml"],
        ["verify", "program", "--model", "az://bucket/model"],
    ],
)
def test_a_path_that_can_not_be_on_a_store_is_refused_in_the_same_words(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        launch.main(words)
    assert "://bucket/" in (said := capsys.readouterr().err)
    assert "a local path is needed here, not an object store" in said


def write(folder: Path, text: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(text, "utf-8")
    return path


def test_the_sweep_wins_field_by_field_also_with_a_default(tmp_path: Path) -> None:
    profile = write(tmp_path, "partition: gpu\nrequeue: false\nsetup: [module load cuda]\n")
    found = with_profile(SlurmConfig(requeue=True, nodes=2), profile, SlurmConfig)
    assert found == SlurmConfig(partition="gpu", requeue=True, nodes=2, setup=("module load cuda",))
    assert with_profile(None, profile, SlurmConfig).requeue is False
    assert with_profile(None, None, SlurmConfig) == SlurmConfig()
    section = SlurmConfig(partition="cpu")
    assert with_profile(section, None, SlurmConfig) == section


def test_an_error_in_a_profile_names_file_and_line(tmp_path: Path) -> None:
    profile = write(tmp_path, "partition: gpu\nnodse: 3\n")
    with pytest.raises(InputError, match=r"profile\.yaml, line 2: unknown key 'nodse'.*'nodes'"):
        with_profile(SlurmConfig(), profile, SlurmConfig)
    with pytest.raises(InputError, match=r"absent\.yaml: No such file"):
        with_profile(None, tmp_path / "absent.yaml", SlurmConfig)


def test_what_is_fit_alone_may_be_unfit_together(tmp_path: Path) -> None:
    profile = write(tmp_path, "autoscale: true\nmin_replicas: 4\n")
    section = KubernetesConfig(autoscale=True, max_replicas=2)
    with pytest.raises(InputError, match="together: max_replicas 2 is less than min_replicas 4"):
        with_profile(section, profile, KubernetesConfig)
