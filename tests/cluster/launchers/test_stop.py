import os
import subprocess
import sys
from pathlib import Path

from kilobit.cluster.launchers.stop import main as stop
from kilobit.cluster.launchers.stop import runs_of


def test_the_run_of_a_pod_is_told_to_stop_and_no_other_is(tmp_path: Path) -> None:
    sweep, mark = str(tmp_path / "a.yaml"), tmp_path / "kilobit.told"
    script = (
        "import pathlib, signal, sys, time\n"
        "def told(*_):\n    pathlib.Path(sys.argv[0] + '.told').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, told)\nprint('up', flush=True)\ntime.sleep(60)"
    )
    program = tmp_path / "kilobit"
    program.write_text(script)
    command = [str(program), "run", sweep, "--continue"]
    other = [str(program), "run", str(tmp_path / "b.yaml")]
    submitter = [str(program), "job", "submit", "--", *command]
    running = [
        subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        for words in (command, other, submitter)
    ]
    try:
        for process in running:
            assert process.stdout
            assert process.stdout.readline() == "up\n"
        assert [process.pid for process in runs_of(sweep)] == [running[0].pid]
        assert stop([sweep, "--within", "20"]) == 0
        # Its status went to who waited for it.
        assert mark.exists()
        assert [process.poll() for process in running[1:]] == [None, None]
        assert stop([sweep]) == 0
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_a_run_that_does_not_stop_in_time_is_said(tmp_path: Path) -> None:
    sweep = str(tmp_path / "a.yaml")
    script = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    (tmp_path / "launch.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "launch.py"), "run", sweep],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        assert stop([sweep, "--within", "0.2"]) == 1
    finally:
        os.kill(process.pid, 9)
        process.communicate()
