"""Words of a command line, paths that are on a store, and profiles that a sweep overrides."""

from pathlib import Path

import pytest
import yaml

from kilobit import launch
from kilobit.cluster.launchers.launcher import Sweeps
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
