"""An `aggregate` that is refused, fails or is killed leaves what was there."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kilobit.cluster.runs.folder import reopen_run
from tests.conftest import REPOSITORY
from tests.support.cli.datasets import RIGHT, aggregate, rows, said
from tests.support.rows import write_rows
from tests.support.runs import write_run


def test_what_others_put_into_the_folder_stays(tmp_path: Path) -> None:
    one, two = (write_run(tmp_path / name, {name: RIGHT}) for name in ("one", "two"))
    out = tmp_path / "all"
    aggregate(one, "-o", out)
    (out / "notes.txt").write_text("mine")
    (out / "report.html").write_text("page")
    (out / "plots" / "deep").mkdir(parents=True)
    (out / "plots" / "deep" / "a.png").write_bytes(b"png")
    (out / "lost").symlink_to("nowhere")
    assert aggregate(two, "-o", out) == 0
    assert {row["run"] for row in rows(out, "rungs")} == {"one", "two"}
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "report.html").read_text() == "page"
    assert (out / "plots" / "deep" / "a.png").read_bytes() == b"png"
    assert (out / "lost").readlink() == Path("nowhere")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "name", ["rungs/notes.txt", "points/other-0.parquet", "payloads/x/y.bin", "payloads/mine.bin"]
)
def test_a_file_of_others_among_the_tables_is_named_and_nothing_is_written(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (write_run(tmp_path / name, {name: RIGHT}) for name in ("one", "two"))
    out = tmp_path / "all"
    aggregate(one, "-o", out)
    before = said(out, "rungs")
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    assert aggregate(two, "-o", out) == 2
    foreign = out.joinpath(*Path(name).parts[:2])
    assert f"-o: {foreign} does not belong to the data set {out}" in capsys.readouterr().err
    assert (out / name).read_text() == "mine"
    assert said(out, "rungs") == before


@pytest.mark.parametrize("name", ["../../secret.bin", "payloads/../x.bin", "payloads/gone.bin"])
def test_a_program_names_no_file_elsewhere(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", {"a": RIGHT})
    (tmp_path / "secret.bin").write_bytes(b"secret")
    with reopen_run(one) as run:
        write_rows(run.ledger, "programs", "a-r0", [{"candidate": "a", "payload_file": name}])
    assert aggregate(one, "-o", tmp_path / "all") == 2
    assert "is not a payload file" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_a_damaged_part_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", {"a": RIGHT})
    aggregate(one, "-o", tmp_path / "all")
    before = (tmp_path / "all" / "dataset.json").read_bytes()
    two = write_run(tmp_path / "two", {"b": RIGHT})
    for table in ("predictions", "rungs"):
        (part,) = (two / "ledger" / table).glob("*.parquet")
        content = part.read_bytes()
        part.write_bytes(content[: len(content) // 2])
        for out in ("all", "new"):
            capsys.readouterr()
            assert aggregate(two, "-o", tmp_path / out) == 2
            assert str(part) in capsys.readouterr().err
        part.write_bytes(content)
    assert (tmp_path / "all" / "dataset.json").read_bytes() == before
    (part,) = (tmp_path / "all" / "rungs").glob("*.parquet")
    flipped = bytearray(part.read_bytes())
    flipped[40] ^= 1
    part.write_bytes(flipped)
    assert aggregate(tmp_path / "all", two, "-o", tmp_path / "new") == 2
    assert str(part) in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "{}/new"], "give runs or data sets, or a file by --import"),
        (["{}/nothing", "-o", "{}/new"], "nothing holds no run: there is no such folder"),
        (["{}/run", "-o", "{}/run"], "run holds .* and is no data set: name a folder that is new"),
        (["{}/run", "-o", "{}/run.yaml"], "run.yaml is a file; a data set is a folder"),
        (["{}/run", "--import", "x.csv", "-o", "{}/new"], "--import and --map go together"),
        (["{}/odd", "-o", "{}/new"], r"odd/dataset.json is not a valid manifest of a data set"),
        (["{}/run", "-o", "{}/odd"], r"odd/dataset.json is not a valid manifest of a data set"),
    ],
)
def test_bad_input_is_said_and_leaves_nothing(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", {"a": RIGHT})
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "dataset.json").write_text("{}")
    before = sorted(path for path in tmp_path.rglob("*") if "attempts" not in path.parts)
    assert aggregate(*(word.format(tmp_path) for word in words)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(p for p in tmp_path.rglob("*") if "attempts" not in p.parts) == before


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (write_run(tmp_path / name, {name: RIGHT}) for name in ("one", "two"))
    aggregate(one, "-o", tmp_path / "all")
    before = said(tmp_path / "all", "rungs")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "Error writing bytes to file")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    assert aggregate(two, "-o", tmp_path / "all") == 1
    assert "No space left on device; nothing was written" in capsys.readouterr().err
    assert said(tmp_path / "all", "rungs") == before
    assert not list(tmp_path.glob(".*"))


KILLED = """
import sys, time
from kilobit import launch
from kilobit.evaluators.merge import merge

def stop(*_):
    print("almost there", flush=True)
    time.sleep(600)

merge.publish = stop
sys.exit(launch.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_in_the_middle_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    one = write_run(tmp_path / "one", {"a": RIGHT})
    command = [sys.executable, "-c", KILLED, "aggregate", str(one), "-o", str(tmp_path / "all")]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "almost there" not in process.stdout.readline():
        assert process.poll() is None
    # One that is at work is left alone.
    assert aggregate(one, "-o", tmp_path / "all") == 0
    assert len(list(tmp_path.glob(".all.*.tmp"))) == 1
    shutil.rmtree(tmp_path / "all")
    process.send_signal(how)
    status = process.wait(timeout=30)
    assert not (tmp_path / "all").exists()
    if how == signal.SIGTERM:
        assert status == 130
        assert not list(tmp_path.glob(".*"))
    # What a killed one could not take away goes with the next.
    assert aggregate(one, "-o", tmp_path / "all") == 0
    assert not list(tmp_path.glob(".*"))
    assert len(rows(tmp_path / "all", "rungs")) == 1
