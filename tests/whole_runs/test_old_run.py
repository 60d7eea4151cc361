"""A run folder that the code before the packages moved wrote, killed in the middle of a search.

`tests/recordings/old_run.tar.xz` holds the folder, and the front and the program files that the
old code itself got when it resumed a copy.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from kilobit import launch
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(REPOSITORY / "tests" / "recordings" / "old_run.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    run = folder / "old_run" / "run"
    manifest = json.loads((run / "run.json").read_text("utf-8"))
    manifest["sweep_folder"] = str(REPOSITORY / "examples")
    (run / "run.json").write_text(json.dumps(manifest), "utf-8")
    # Archives keep no permissions of folders above the files.
    run.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-m", "kilobit.launch", "resume", str(run)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "old_run"


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_an_old_run_resumes_to_the_front_and_the_files_of_the_old_code(
    old_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["front", str(old_run / "run"), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # The old code did not count distinct outputs, what a chat costs, and bits above the bare
    # question; the ledger has the last, and what ran since has all.
    bare = {one["model"]: one["program_bits"] - one["net_bits"] for one in found}
    assert all(one["program_bits"] - one.pop("net_bits") == bare[one["model"]] for one in found)
    assert min(bare.values()) > 3000
    assert all(point.pop("template_bits") in (None, 0) for point in found)
    assert all(point.pop("num_distinct") in (None, *range(1, 100)) for point in found)
    lines = [json.dumps(point) for point in found]
    assert lines == (old_run / "front.jsonl").read_text("utf-8").splitlines()
    for line in (old_run / "programs.sha256").read_text("utf-8").splitlines():
        digest, path = line.split()
        assert hashlib.sha256((old_run / "run" / path).read_bytes()).hexdigest() == digest


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_an_old_run_verifies_again_and_reports(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["verify", str(old_run / "run")]) == 0
    assert "3416" in capsys.readouterr().out
    page = tmp_path / "report.html"
    assert launch.main(["report", str(old_run / "run"), "-o", str(page)]) == 0
    assert "788a0b0af754e2ea" in page.read_text("utf-8")
