"""The command line itself: what is parsed, what is refused, and what a shell is told at the end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.settings import InputError
from tests.conftest import REPOSITORY
from tests.support.cli.failing import refused


def test_help_teaches_and_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import launch, sys\n"
        "try: launch.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'ray', 'torch', 'transformers', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert "kilobit run examples/quickstart.yaml" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("seconds", ["0", "-1", "1e9", "nan", "RUN"])
def test_a_watch_without_a_pause_is_refused(
    capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        launch.main(["status", "run", f"--watch={seconds}"])
    assert caught.value.code == 2
    assert "seconds are allowed" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "1000001", "ten"])
@pytest.mark.parametrize("command", ["verify", "certify"])
def test_a_time_limit_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], command: str, seconds: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        launch.main([command, "run", f"--timeout={seconds}"])
    assert ended.value.code == 2
    allowed = f"{seconds!r}: whole seconds from 1 to 1000000 are allowed"
    assert allowed in capsys.readouterr().err


@pytest.fixture
def _handler_kept() -> Iterator[None]:
    """Put back what this process does on signals, which `main` changes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the message of a command line that must be refused with exit status 2."""
    with pytest.raises(SystemExit) as ended:
        launch.parse(argv)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_values_to_change_may_follow_options() -> None:
    args = launch.parse(["run", "a.yaml", "seed=1", "--dry-run", "budget.seconds=2"])
    assert (args.sweep, args.dry_run) == (Path("a.yaml"), True)
    assert args.overrides == ("seed=1", "budget.seconds=2")
    args = launch.parse(["kubernetes", "a.yaml", "b.yaml", "--print", "seed=1"])
    assert args.words == ("a.yaml", "b.yaml", "seed=1")
    args = launch.parse(["slurm", "a.yaml", "--print", "seed=1"])
    assert args.words == ("a.yaml", "seed=1")


def test_values_of_one_command_line_are_not_in_the_next() -> None:
    launch.parse(["resume", "run", "--take-over", "budget.seconds=2"])
    assert launch.parse(["resume", "run"]).overrides == ()


@pytest.mark.parametrize(
    ("argv", "unknown"),
    [
        (["run", "a.yaml", "--frobnicate"], "--frobnicate"),
        (["status", "run", "other"], "other"),
        (["doctor", "now", "please"], "now please"),
        (["slurm", "a.yaml", "--print", "seed=1", "--chian=2"], "seed=1 --chian=2"),
    ],
)
def test_words_that_a_command_does_not_take_are_named(
    capsys: pytest.CaptureFixture[str], argv: list[str], unknown: str
) -> None:
    assert f"unrecognized arguments: {unknown}\n" in refusal(capsys, *argv)


def test_a_command_is_needed_and_has_to_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: COMMAND" in refusal(capsys)
    assert "invalid choice: 'serach'" in refusal(capsys, "serach")


@pytest.mark.parametrize(
    ("installed", "shown"),
    [("7.8.9", "kilobit 7.8.9\n"), (None, "kilobit, not installed\n")],
)
def test_the_version_is_that_of_the_installed_package(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    installed: str | None,
    shown: str,
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(launch, "version", version)
    with pytest.raises(SystemExit) as ended:
        launch.parse(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == shown


def test_a_url_is_a_place_only_where_a_run_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    url = "s3://bucket/runs"
    args = launch.parse(["run", "a.yaml", "--out", url])
    assert isinstance(args.out, StoredPath)
    assert str(args.out) == url
    for argv in (["run", url], ["scorecard", url], ["report", "run", "--figures", url]):
        assert f"{url}: a local path is needed here" in refusal(capsys, *argv)
    message = refusal(capsys, "status", "s3://name:sesame@bucket/runs")
    assert "AWS_" in message
    assert "sesame" not in message
    assert "ftp:// is not an object store" in refusal(capsys, "front", "ftp://host/runs")


def test_a_watch_has_a_pause_of_its_own_and_takes_another() -> None:
    assert launch.parse(["status", "run"]).watch_s is None
    assert launch.parse(["status", "run", "--watch"]).watch_s == 2.0
    for text, seconds in (("0.2", 0.2), ("3600", 3600.0)):
        assert launch.parse(["status", "run", "--watch", text]).watch_s == seconds


@pytest.mark.parametrize("number", ["0", "1001", "2.5", "-1", "\u0663"])
def test_a_chain_of_no_or_too_many_jobs_is_refused(
    capsys: pytest.CaptureFixture[str], number: str
) -> None:
    message = refusal(capsys, "slurm", "a.yaml", f"--chain={number}")
    assert f"{number!r}: 1 to 1000 jobs are allowed" in message
    assert launch.parse(["slurm", "a.yaml", "--chain=1000"]).chain == 1000


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (None, 0, ""),
        (OSError(28, "No space left on device"), 1, "kilobit: [Errno 28] No space left"),
        (InputError("the \x1b[31mfile is wrong"), 2, "kilobit: the "),
        (KeyboardInterrupt(), 130, "interrupted before anything started"),
    ],
)
@pytest.mark.usefixtures("_handler_kept")
def test_the_exit_status_says_how_a_command_ended(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException | None,
    status: int,
    message: str,
) -> None:
    def command(_: Any) -> int:
        if raised is not None:
            raise raised
        return 0

    monkeypatch.setattr("kilobit.cluster.cli.compare.compare", command)
    assert launch.main(["compare", "a", "b"]) == status
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert len(said.splitlines()) == (status != 0)
    assert "\x1b" not in said


@pytest.mark.usefixtures("_handler_kept")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_job_scheduler_or_a_closed_terminal_ends_a_command_as_ctrl_c_does(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(_: Any) -> int:
        os.kill(os.getpid(), number)
        return 0

    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    monkeypatch.setattr("kilobit.cluster.cli.compare.compare", command)
    assert launch.main(["compare", "a", "b"]) == 130


@pytest.mark.usefixtures("_handler_kept")
def test_nohup_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr("kilobit.cluster.cli.compare.compare", lambda _: 0)
    assert launch.main(["compare", "a", "b"]) == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_reader_that_stops_reading_is_no_failure(tmp_path: Path) -> None:
    script = tmp_path / "printing.py"
    script.write_text(
        "import sys\n"
        "from kilobit import launch\n"
        "from kilobit.cluster.cli import compare\n"
        "compare.compare = lambda _: [print('x' * 999, flush=True) for _ in range(999)] and 0\n"
        "sys.exit(launch.main(['compare', 'a', 'b']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), said) == (0, b"")


Write = Callable[..., Path]


def test_a_password_in_a_url_is_refused_and_not_repeated(
    write_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "s3://me:sesame@bucket/run"
    with pytest.raises(SystemExit) as caught:
        launch.main(["status", url])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert "give credentials by the environment" in shown
    shown += refused(capsys, "run", str(write_sweep(cache=url)))
    shown += refused(capsys, "run", str(write_sweep()), f"out={url}")
    assert "sesame" not in shown


def test_what_has_to_be_local_may_not_be_a_url(
    write_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [{"regime": "x", "path": "s3://bucket/model"}]
    assert "a local path is needed, not a URL" in refused(
        capsys, "run", str(write_sweep(base_models=models))
    )


def test_an_encoding_without_our_letters_is_no_failure() -> None:
    show = (
        "from kilobit import launch; from kilobit.cluster.cli import compare\n"
        "compare.compare = lambda _: print('\u2265') or 0\n"
        "launch.main(['compare', 'a', 'b'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", show],
        capture_output=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"?\n"), done.stderr


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_programs_get_open_streams_where_those_of_the_command_are_closed(
    tmp_path: Path, closed: tuple[int, ...]
) -> None:
    words = (
        f"import os, subprocess, sys\nfor number in {closed}: os.close(number)\n"
        "from kilobit import launch\nlaunch._open_standard_streams()\n"
        "child = 'import os; [os.fstat(number) for number in (0, 1, 2)]'\n"
        f"done = subprocess.run([sys.executable, '-c', child])\n"
        f"open({str(tmp_path / 'status')!r}, 'w').write(str(done.returncode))\n"
    )
    subprocess.run([sys.executable, "-c", words], check=True)
    assert (tmp_path / "status").read_text("utf-8") == "0"
