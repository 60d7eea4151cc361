"""No secret of the environment is in what a command leaves, prints, or shows in lists of processes.

pytest -m slow tests/whole_runs/test_secrets.py
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.support.driver.tiny_sweep import SWEEP
from tests.support.judges.judge_server import Server

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
MARK = "sesame-open"
SECRETS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
    "JUDGE_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "OPENAI_API_KEY",
    "RAY_AUTH_TOKEN", "WANDB_API_KEY",
)  # fmt: skip


@contextmanager
def listed() -> Iterator[set[str]]:
    """Yield the marked words that any user sees in a list of processes, until the block ends."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            args = ("ps", "axww", "-o", "args")
            shown = subprocess.run(args, capture_output=True, text=True, check=True)
            seen.update(word for word in shown.stdout.split() if MARK in word)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        ended.set()
        looking.join()


def found_in(folder: Path) -> list[str]:
    """Return the files below a folder that hold a mark in their name or content."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if MARK in path.name or MARK.encode() in path.read_bytes()]


COMMANDS = (
    "run tiny.yaml --dry-run",
    "run tiny.yaml --out a",
    "run tiny.yaml --out b seed=1",
    "resume a budget.candidates=4",
    "status a",
    "check a",
    "front a",
    "results a",
    "verify a",
    "certify a",
    "scorecard a --battery battery.yaml",
    "report a",
    "aggregate a b -o all",
    "compare a b --score",
    "compare x.jsonl y.jsonl --judge judge.yaml",
    "doctor",
    "slurm tiny.yaml --print",
    "kubernetes tiny.yaml --print --profile pods.yaml",
    "front s3://nobody/nothing",
)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Yield a folder with a name short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="kb"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_no_command_leaves_or_shows_a_secret(tmp_path: Path, temporary: Path) -> None:
    server = Server()
    files = {
        "tiny.yaml": SWEEP | {"trackers": [{"kind": "tensorboard"}]},
        "battery.yaml": {
            "tasks": [{"task": SWEEP["task"], "examples": 2}],
            "perplexity": None, "safety": None, "game": None, "harness": [],
        },
        "judge.yaml": {"judge": {"kind": "endpoint", "url": server.url, "model": "m",
                                 "key_variable": "JUDGE_KEY"}},
        "pods.yaml": {"image": "a/b:1", "claim": "c", "out": "/data/runs"},
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content), "utf-8")
    for name in ("x", "y"):
        lines = [f'{{"id": "{n}", "input": "q{n}", "output": "{name}{n}"}}\n' for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    secrets = {name: f"{MARK}-{name}" for name in SECRETS}
    home = temporary / "h"
    home.mkdir()
    places = {"HOME": str(home), "TMPDIR": str(temporary), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done: dict[str, tuple[int, str]] = {}
    with listed() as seen:
        for words in COMMANDS:
            ended = subprocess.run(
                [sys.executable, str(REPOSITORY / "launch.py"), *words.split()],
                cwd=tmp_path, env=os.environ | secrets | places, capture_output=True, text=True,
                timeout=600,
                check=False,
            )  # fmt: skip
            done[words] = ended.returncode, ended.stdout + ended.stderr
    server.stop()
    # The commands have done what they do, and the key has reached the judge alone.
    assert {words: text for words, (status, text) in done.items() if status not in (0, 1)} == {
        words: text for words, (_, text) in done.items() if "s3://" in words
    }
    assert any(secrets["JUDGE_KEY"] in headers["Authorization"] for _, headers, _ in server.asked)
    assert [words for words, (_, text) in done.items() if MARK in text] == []
    assert found_in(tmp_path) == []
    assert list((temporary / "ray").glob("session_*")), "Ray's logs are not there"
    assert found_in(temporary) == []
    assert seen == set()
