"""How far a run is, from outside: once, as a table that is renewed, as lines where it changes."""

import io
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

from kilobit import launch
from kilobit.cluster.cli import status
from kilobit.cluster.cli.status import WatchedRun, ending
from kilobit.cluster.runs.folder import RunFolder, create_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.compaction import fold
from kilobit.evaluators.ledger.parts import as_parquet
from kilobit.evaluators.ledger.stored_path import StoredPath
from tests.conftest import REPOSITORY
from tests.support.rows import write_rows

Write = Callable[..., Path]
NOW = datetime.now(UTC)


class Story:
    """A run of two base models that writes its next rung whenever somebody sleeps."""

    def __init__(self, run: RunFolder, let_go: Callable[[], None]) -> None:
        self.run, self.let_go, self.now, self.told = run, let_go, 100.0, 0
        for position, name in enumerate(("a", "b", "c")):
            model = ("small", "large")[position % 2]
            row = {"candidate": name, "model": model, "task": "t", "position": position}
            write_rows(run.ledger, "candidates", name, [row | {"regime": "r", "family": "prompt"}])

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.told += 1
        steps: dict[int, Callable[[], None]] = {
            1: lambda: self.rung("a", 0, 0.25, "promote"),
            3: lambda: self.rung("a", 1, 0.5, "finish"),
            4: lambda: self.rung("b", 0, None, "stop"),
            5: lambda: fold(self.run.ledger),
            6: lambda: self.rung("c", 0, 0.125, "stop"),
            8: self.let_go,
        }
        steps.get(self.told, lambda: None)()

    def rung(self, name: str, rung: int, score: float | None, decision: str) -> None:
        at = NOW - timedelta(seconds=60 - 10 * self.told)
        row: dict[str, Any] = {"candidate": name, "rung": rung, "score": score, "attempt": 1}
        row |= {"program_bits": 900, "payload_bits": 80, "num_examples": 4 * 2**rung}
        row |= {"seconds": 6.0, "finished_at": at, "worker": "w-0", "split": "search"}
        if score is None:
            row |= {"error": "Traceback\n  x\nValueError: \x1b[31mno", "program_bits": None}
        part = f"{name}-r{rung}"
        write_rows(self.run.ledger, "rungs", part, [row | {"program": name}])
        write_rows(self.run.ledger, "decisions", part, [{"candidate": name, "decision": decision}])


@pytest.fixture
def story(write_sweep: Write, tmp_path: Path) -> Story:
    models = [{"regime": "small", "path": "."}, {"regime": "large", "path": "."}]
    families = {"prompt": {"candidates": 2}}
    # The times of the rungs are near the beginning of all tests.
    settings = {"targets": [0.4], "budget": {"seconds": 90}, "workers": {"silent_s": 7200}}
    path = write_sweep(base_models=models, families=families, **settings)
    held = create_run(load_sweep(path), path, tmp_path / "run")
    run = held.__enter__()
    return Story(run, lambda: held.__exit__(None, None, None) and None)


def a_watch(story: Story) -> WatchedRun:
    return WatchedRun(story.run.path, story.clock)


def test_without_a_terminal_only_what_changed_is_said_with_the_time(story: Story) -> None:
    watch, text = a_watch(story), io.StringIO()
    status._watch_lines(watch, Console(file=text, soft_wrap=True, width=300), 5, story.sleep)
    first, *_ = text.getvalue().split("locked by attempt 1")
    assert "small, attempt 1" in first
    lines = [line for line in text.getvalue().splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    told = [line[9:] for line in lines]
    assert len(told) == 5
    assert told[0].startswith("rung 0: 1 finished; small: best 0.250 with 900 bits on 4 examples, ")
    assert "rung 1: 1 finished; 1 of 4 candidates ended; small: best 0.500 with 9" in told[1]
    assert "1 on the front" in told[1]
    assert "rungs a minute" in told[1]
    assert "of the time budget left" in told[1]
    assert told[2].startswith("rung 0: 2 finished; 2 of 4 candidates ended")
    assert told[3] == "failed: b: ValueError: \ufffd[31mno"
    assert told[4].startswith("rung 0: 3 finished; 3 of 4 candidates ended")
    assert ending(watch) == (
        "not running, and not complete: 3 of 4 candidates ended: 1 completed the last "
        f"rung, 2 stopped before; 0 were in progress, 0 programs verified. Go on with:\n"
        f"  kilobit resume {story.run.path}"
    )


def test_a_pace_without_anything_new_for_long_is_not_kept(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.rung("a", 0, 0.25, "promote")
    watch = a_watch(story)
    progress = watch.look()
    last = progress.last
    assert last is not None

    def shown(seconds: float) -> str:
        now = last + timedelta(seconds=seconds)
        monkeypatch.setattr(status, "datetime", SimpleNamespace(now=lambda _: now))
        [line] = status._pace(watch, progress)
        return line

    assert re.fullmatch(r".* rungs a minute, 1:1\d of the time budget left", shown(10))
    assert "rungs a minute" in shown(7200)
    assert shown(7201) == "no rung was finished for 2:00:01, 0:00 of the time budget left"
    assert progress.pace is not None
    progress = replace(progress, pace=replace(progress.pace, ends_at=last))
    assert ", 0:00 left" in shown(7200)
    assert ", 0:00 left" not in shown(7201)
    story.let_go()


def test_a_terminal_renews_a_table(story: Story) -> None:
    watch, text = a_watch(story), io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, height=60, soft_wrap=True)
    status._watch_table(watch, console, 5, story.sleep)
    last = Text.from_ansi(text.getvalue().rsplit("small, attempt 1", 1)[1]).plain
    # Lines that are longer than the terminal go on in the next.
    assert "0 programs verified" in " ".join(last.split())
    assert max(map(len, last.splitlines())) <= 100
    rows = [line.split() for line in last.splitlines()]
    assert ["small", "2", "2", "0.500", "900", "8", "1", "900"] in rows
    assert ["large", "1", "1", "0"] in rows
    assert ["0", "4", "2", "3", "1"] in rows
    assert "not running" in last
    assert "\x1b[31mno" not in last


@pytest.mark.parametrize("width", [60, 100])
def test_a_narrow_terminal_cuts_no_number_and_says_what_it_leaves_out(
    story: Story, width: int
) -> None:
    for _ in range(5):
        story.sleep(5)
    watch, text = a_watch(story), io.StringIO()
    watch.look()
    console = Console(file=text, force_terminal=True, width=width, height=80, soft_wrap=True)
    with Live(status.view(watch, console), console=console, auto_refresh=False):
        pass
    watched = Text.from_ansi(text.getvalue().rsplit("small, attempt 1", 1)[1]).plain
    text.truncate(0)
    status._print(console, watch)
    for shown in (watched, Text.from_ansi(text.getvalue()).plain):
        assert "…" not in shown
        # The line is longer than a terminal and goes on in the next.
        assert str(watch.holder).replace(" ", "") in "".join(shown.split())
        rows = [line.split() for line in shown.splitlines()]
        row = ["small", "2", "1", "0.500", "900", *(["8"] if width == 100 else []), "1", "900"]
        assert row in rows
        assert ("not shown here: examples\n" in shown) == (width == 60)
    assert max(map(len, watched.splitlines())) <= width
    story.let_go()


def test_coarser_versions_of_adapters_are_counted_apart(story: Story) -> None:
    story.rung("a", 1, 0.5, "finish")
    made = {"candidate": "a1", "model": "small", "task": "t", "position": None, "parent": "a"}
    write_rows(story.run.ledger, "candidates", "a1", [made | {"regime": "r", "family": "prompt"}])
    made_row = {"candidate": "a1", "rung": 1, "num_examples": 8, "seconds": 1.0, "attempt": 1}
    made_row |= {"finished_at": NOW, "worker": "w-0", "split": "search", "error": "no"}
    write_rows(story.run.ledger, "rungs", "a1-r1", [made_row])
    watch, text = a_watch(story), io.StringIO()
    status._print(Console(file=text, width=100), watch)
    assert ["1", "8", "4", "1", "0"] in [line.split() for line in text.getvalue().splitlines()]
    assert "and 1 coarser version of an adapter, 1 of them failed" in text.getvalue()
    story.let_go()


def test_one_look_says_how_to_go_on_where_nobody_holds_the_run(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> str:
        assert launch.main(["status", str(story.run.path)]) == 0
        return capsys.readouterr().out

    assert "3 are in progress" in shown()
    story.let_go()
    assert "3 were in progress" in shown()
    assert "not running, and not complete. Go on with:\n" in shown()
    assert shown().endswith(f"  kilobit resume {story.run.path}\n")


def test_looks_are_rare_where_each_takes_long(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        story.sleep(seconds)

    times = iter(range(0, 100_000, 10))
    monkeypatch.setattr(status.time, "monotonic", lambda: float(next(times)))
    status._watch_lines(a_watch(story), Console(file=io.StringIO()), 5, sleep)
    assert set(slept) == {50.0}


def test_a_watch_of_a_run_that_nobody_holds_ends_at_once(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    story.let_go()
    assert launch.main(["status", str(story.run.path), "--watch"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("not running") == 1
    assert "and not complete: 0 of 4 candidates ended" in shown


def test_a_run_on_a_store_is_watched_too(
    write_sweep: Write, folder: StoredPath, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep()
    with create_run(load_sweep(path), path, folder) as run:
        watch, text = WatchedRun(folder), io.StringIO()

        def sleep(_: float) -> None:
            write_rows(run.ledger, "decisions", "a-r0", [{"candidate": "a", "decision": "stop"}])
            watch.holder = None

        status._watch_lines(watch, Console(file=text, soft_wrap=True), 1, sleep)
    assert "locked by attempt 1" in text.getvalue()
    assert launch.main(["status", str(folder), "--watch"]) == 0
    shown = capsys.readouterr().out
    assert "1 stopped before" in shown
    assert f"kilobit resume {folder}" in shown


def test_leaving_is_quiet_and_its_exit_status_says_so(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status._watch_lines, "__defaults__", (interrupted,))
    assert launch.main(["status", str(story.run.path), "--watch", "0.5"]) == 130
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "interrupted" not in shown.out
    story.let_go()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a recorded run, to be copied."""
    folder = tmp_path_factory.mktemp("recorded")
    with tarfile.open(REPOSITORY / "tests" / "recordings" / "quickstart.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    run = folder / "quickstart"
    # Its version wrote no checksums of whole files.
    for path in run.glob("ledger/*/*.parquet"):
        content = pq.read_table(path)
        path.write_bytes(as_parquet(content, path.name))
    return run


def checked(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the status of `check`, and what it says in one line."""
    status = launch.main(["check", str(run)])
    told = capsys.readouterr()
    return status, " ".join((told.out + told.err).split())


def test_check_reads_all_files_of_a_run_and_changes_none(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in recorded.rglob("*")}
    number = len(list(recorded.glob("ledger/*/*.parquet")))
    assert checked(recorded, capsys) == (
        0,
        f"{number} files of the ledger were read to the end: all are intact",
    )
    assert {path: path.stat().st_mtime_ns for path in recorded.rglob("*")} == before


def damaged_file(run: Path, table: str) -> Path:
    """Flip a bit in the middle of a file of a table and return it."""
    file = sorted(run.glob(f"ledger/{table}/*.parquet"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


TABLES = ("candidates", "rungs", "predictions", "decisions", "programs", "verifications", "workers")


@pytest.mark.parametrize("table", TABLES)
def test_check_names_a_damaged_file_and_the_way_on(
    recorded: Path, tmp_path: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    file = damaged_file(run, table)
    status, told = checked(run, capsys)
    assert status in (1, 2)
    assert file.name in told.replace(" ", "")
    assert f"kilobit resume {run}" in told or status == 2


def test_check_names_a_file_that_is_gone(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    gone = sorted(run.glob("ledger/predictions/*.parquet"))[0]
    gone.unlink()
    status, told = checked(run, capsys)
    assert status == 1
    assert gone.name.split(".")[0] in told
    assert "the file is gone" in told


def test_check_names_a_program_in_the_place_of_another(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    file = sorted(run.glob("ledger/programs/*.parquet"))[0]
    (row,) = pq.read_table(file).to_pylist()
    changed = pa.Table.from_pylist([row | {"script": row["script"] + b"#"}])
    file.write_bytes(as_parquet(changed, file.name))
    status, told = checked(run, capsys)
    assert status == 1
    assert f"not the program {row['program']}" in told


def test_check_names_a_damaged_scorecard(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(recorded, tmp_path / "run")
    content = as_parquet(pa.table({"item": ["a"]}))
    (run / "scorecard.parquet").write_bytes(content)
    assert checked(run, capsys)[0] == 0
    (run / "scorecard.parquet").write_bytes(content.replace(b"item", b"tiem"))
    status, told = checked(run, capsys)
    assert status == 1
    assert f"kilobit scorecard {run}" in told
