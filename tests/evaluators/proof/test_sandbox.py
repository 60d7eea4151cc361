import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from kilobit.evaluators.proof import sandbox
from kilobit.evaluators.proof.sandbox import (
    Limits,
    ProgramFailedError,
    Sandbox,
    enforced,
)
from tests.conftest import REPOSITORY
from tests.support.fresh_process import ECHO, run_files


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give temporary folders a place of their own, and see that none is left there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def run(script: str, inputs: tuple[str, ...] = ("a",), payload: bytes = b"", **limits: Any) -> Any:
    settings = Limits(**{"seconds": 60, **limits})
    return run_files(script.encode(), payload, Path("model"), inputs, settings, fresh=True)


def test_a_program_gets_its_inputs_and_its_outputs_come_back() -> None:
    inputs = ("a", "b\nc", "", "ä\u2028 \"'\\ \x00 \U0001f600")
    assert run(ECHO, inputs) == [text.upper() for text in inputs]


LETTERS = ("a", "\xe4\u20ac\u2028 \u6f22 \U0001f600", "\xff\x85")
LOCALES = ({"LC_ALL": "C"}, {"LANG": "en_US.ISO-8859-1"}, {"PYTHONIOENCODING": "latin-1"})


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_a_program_reads_and_writes_the_same_text_in_every_locale(
    locale: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (locale | {"PYTHONUTF8": "0"}).items():
        monkeypatch.setenv(name, value)
    assert run(ECHO, LETTERS) == [text.upper() for text in LETTERS]
    # As the docs tell a user to run it: inputs in UTF-8 with `-X utf8`, or in ASCII without it.
    (tmp_path / "program.py").write_text(ECHO, "utf-8")
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    for options, ascii_only in ((("-X", "utf8"), False), ((), True)):
        lines = [json.dumps(text, ensure_ascii=ascii_only) + "\n" for text in LETTERS]
        done = subprocess.run(
            [sys.executable, *options, "program.py"],
            input="".join(lines).encode(),
            capture_output=True,
            check=True,
            cwd=tmp_path,
        )
        outputs = [json.loads(line) for line in done.stdout.decode("ascii").split("\n")[:-1]]
        assert outputs == [text.upper() for text in LETTERS]


def test_no_input_is_no_output() -> None:
    assert run(ECHO, ()) == []


def test_a_program_has_its_two_files_and_the_folder_of_the_model() -> None:
    script = """
import json, os, sys
print(json.dumps([sorted(os.listdir()), open("payload.bin", "rb").read().hex(), sys.argv]))
""".replace("json.dumps([", "json.dumps(json.dumps([").replace("]))", "])))")
    import json

    files, payload, argv = json.loads(run(script, payload=b"\0\xff")[0])
    assert files == ["payload.bin", "program.py"]
    assert payload == "00ff"
    assert argv == ["program.py", str(Path("model").absolute())]


@pytest.mark.parametrize("package", ["cluster", "search", "evaluators", "launch"])
def test_our_packages_can_not_be_imported(package: str) -> None:
    script = f"""
try:
    import {package}
except ModuleNotFoundError as error:
    print('"' + str(error).replace('"', "") + '"')
"""
    assert run(script) == [f"No module named '{package}'"]
    nested = f"import importlib; importlib.import_module('{package}.sweep')"
    with pytest.raises(ProgramFailedError, match=f"No module named '{package}"):
        run(nested)


def test_nothing_of_our_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILOBIT_SECRET", "x")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    script = "import json, os; print(json.dumps(' '.join(sorted(os.environ))))"
    (names,) = run(script)
    assert "KILOBIT_SECRET" not in names
    assert "PYTHONPATH" not in names
    assert "HF_HUB_OFFLINE" in names


def test_the_network_is_cut() -> None:
    if "network" not in enforced():
        pytest.skip("unshare gives this user no network of its own")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"""
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5).close()
    print('"connected"')
except OSError:
    print('"cut off"')
"""
        accepted = threading.Thread(target=server.accept, daemon=True)
        accepted.start()
        assert run(script) == ["cut off"]
        # The same server answers whoever has the network.
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        accepted.join(5)
        assert not accepted.is_alive()


@pytest.fixture(scope="module", params=["fresh", "preloaded"])
def one(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(1, fresh=request.param == "fresh") as found:
        yield found


def test_programs_run_at_once_and_each_gets_its_own_answer(one: Sandbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        work = partial(one.run, ECHO.encode(), b"", Path("model"), limits=Limits(seconds=60))
        inputs = [[chr(ord("a") + i)] * i for i in range(12)]
        assert list(pool.map(lambda given: work(inputs=given), inputs)) == [
            [text.upper() for text in given] for given in inputs
        ]


def test_a_server_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_modules", lambda *_: [])
    with Sandbox(1) as own:
        files = (ECHO.encode(), b"", Path("model"))
        assert own.run(*files, ["a"], Limits(seconds=60)) == ["A"]
        assert own._server is not None
        own._server._process.kill()
        own._server._reader.join()
        assert own.run(*files, ["b"], Limits(seconds=60)) == ["B"]


def test_a_program_that_ends_with_its_server_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_modules", lambda *_: [])
    killed = threading.Event()

    def kill() -> None:
        while own._server is None:
            time.sleep(0.01)
        process = own._server._process
        # The supervisor, the first process of the namespace, and the program.
        while len(psutil.Process(process.pid).children(recursive=True)) < 3:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        killed.set()

    with Sandbox(1) as own:
        killer = threading.Thread(target=kill)
        killer.start()
        script = f"import time\ntime.sleep(1){ECHO}"
        assert own.run(script.encode(), b"", Path("model"), ["a"], Limits(seconds=60)) == ["A"]
        killer.join()
    assert killed.is_set()


def test_a_program_that_does_not_end_is_stopped() -> None:
    with pytest.raises(ProgramFailedError, match="it took more than 1 s"):
        run("import time\ntime.sleep(100)", seconds=1)


def test_memory_is_limited() -> None:
    with pytest.raises(ProgramFailedError, match="ended with status 1: MemoryError"):
        run("x = bytearray(3 << 30)", memory_gb=2)
    script = "x = bytearray(1 << 29); print('\"fits\"')"
    assert run(script, memory_gb=2) == ["fits"]
    assert run(script, memory_gb=0) == ["fits"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('garbage')", "line 1 of its output is not a JSON string"),
        ("print('\"a\"'); print('{}')", "line 2 of its output is not a JSON string"),
        ("print('3')", "line 1 of its output is not a JSON string"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')", "line 1 of its output is not"),
        ("", "it printed 0 outputs for 2 inputs"),
        ("print('\"a\"')", "it printed 1 outputs for 2 inputs"),
        ("print('\"a\"'); print('\"b\"', end='')", "it printed 1 outputs for 2 inputs"),
        ("print('\"a\"\\n' * 3, end='')", "it printed more than 2 outputs, one for each input"),
        ("import sys; sys.exit(1)", "it ended with status 1: no error message"),
        ("raise ValueError('no\\nreason')", "it ended with status 1: reason"),
        ("import os; os.abort()", "it ended with status -6"),
        ("this is no Python", "it ended with status 1: SyntaxError: invalid syntax"),
        ("print('[' * 100000)", "line 1 of its output is not a JSON string"),
    ],
)
def test_a_program_that_fails_says_how(script: str, message: str) -> None:
    with pytest.raises(ProgramFailedError, match=message):
        run(script, ("a", "b"))


def test_limits_hold_for_the_program_and_not_for_us() -> None:
    script = """
import json, resource
limits = [resource.getrlimit(n)[0] for n in (resource.RLIMIT_AS, resource.RLIMIT_CORE)]
print(json.dumps(str(limits)))
"""
    assert run(script, memory_gb=3) == [str([3 << 30, 0])]
    assert os.environ.get("HF_HUB_OFFLINE") != "never"


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no such priority")
def test_an_idle_program_yields_to_every_other_process() -> None:
    script = """
import json, os, pathlib
group = pathlib.Path("/proc/self/autogroup")
nice = group.read_text().split()[-1:] if group.exists() else []
print(json.dumps(str([os.sched_getscheduler(0), *nice])))
"""
    # Each program has a session of its own, so its group says nothing about the group of this
    # process. A system may have no groups, or have them without showing any.
    (usual,) = run(script)
    assert usual in (str([os.sched_getscheduler(0)]), str([os.sched_getscheduler(0), "0"]))
    change = "import os; os.setsid(); open('/proc/self/autogroup', 'r+').write('19')"
    changed = subprocess.run([sys.executable, "-c", change], check=False, capture_output=True)
    nice = [] if "'0'" not in usual else ["0"] if changed.returncode else ["19"]
    assert run(script, idle=True) == [str([os.SCHED_IDLE, *nice])]


def test_a_sandbox_imports_beforehand_what_programs_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_MODULES", ("wave",))
    monkeypatch.setattr(sandbox, "_MODULES_OF_ADAPTERS", ("no_such_module", "chunk"))
    monkeypatch.setattr(sandbox, "_modules", lambda *_: [])
    script = b"import json, os, sys; print(json.dumps(str(('wave' in sys.modules, os.nice(0)))))"
    for fresh, found in ((False, f"(True, {os.nice(0)})"), (True, f"(False, {os.nice(0)})")):
        with Sandbox(1, fresh=fresh) as own:
            own.warm()
            assert own.run(script, b"", Path("model"), ["a"], Limits(seconds=60)) == [found]


LEFT_BEHIND = """
import os, time
if os.fork() == 0:
    SETSID
    os.execvp("sleep", ["sleep", "MARK"])
time.sleep(0.5)
END
"""


def is_running(mark: str) -> bool:
    found = psutil.process_iter(["cmdline"])
    return any(mark in (process.info["cmdline"] or ()) for process in found)


@pytest.mark.parametrize("end", ["print('\"a\"')", "time.sleep(100)"])
@pytest.mark.parametrize("setsid", ["", "os.setsid()"])
@pytest.mark.parametrize("isolate", [True, False])
def test_nothing_of_a_program_outlives_it(
    monkeypatch: pytest.MonkeyPatch, end: str, setsid: str, isolate: bool
) -> None:
    if isolate and "processes" not in enforced():
        pytest.skip("this user gets no processes of its own")
    if not isolate and setsid:
        pytest.skip("who leaves the process group outlives it where there is no isolation")
    monkeypatch.setattr(sandbox, "_ISOLATE", isolate)
    mark = f"{500 + os.getpid()}.{len(end)}"
    script = LEFT_BEHIND.replace("SETSID", setsid or "pass").replace("END", end)
    seen = threading.Event()

    def watch() -> None:
        while not seen.is_set() and is_watched.is_set():
            if is_running(mark):
                seen.set()

    is_watched = threading.Event()
    is_watched.set()
    watcher = threading.Thread(target=watch)
    watcher.start()
    if "sleep" in end:
        with pytest.raises(ProgramFailedError, match="it took more than 2 s"):
            run(script.replace("MARK", mark), seconds=2)
    else:
        assert run(script.replace("MARK", mark)) == ["a"]
    is_watched.clear()
    watcher.join()
    assert seen.is_set()
    time.sleep(0.1)
    assert not is_running(mark)


def test_what_a_program_says_is_shown_without_control_characters() -> None:
    with pytest.raises(ProgramFailedError) as found:
        run("import sys; sys.exit('\\x1b[2Jgone\\x07\\u202e')")
    assert str(found.value) == "it ended with status 1: \ufffd[2Jgone\ufffd\ufffd"


def test_running_programs_are_interrupted_with_us() -> None:
    began = threading.Event()

    def interrupt() -> None:
        began.wait()
        while not sandbox._RUNNING:
            time.sleep(0.01)
        time.sleep(1)
        sandbox.interrupt_running()

    thread = threading.Thread(target=interrupt)
    thread.start()
    began.set()
    with pytest.raises(KeyboardInterrupt):
        run("import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); time.sleep(100)")
    thread.join()


INTERRUPTED = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (f"{INTERRUPTED}; os.kill(os.getpid(), signal.SIGINT)", -2),
        (f"{INTERRUPTED}; os.killpg(0, signal.SIGINT)", -2),
        ("raise KeyboardInterrupt", "(1|-2)"),
        ("raise SystemExit(130)", 130),
    ],
)
def test_a_program_that_interrupts_itself_fails(script: str, status: object) -> None:
    with pytest.raises(ProgramFailedError, match=f"it ended with status {status}: "):
        run(script)


DEEP = """
for _ in range(3000):
    os.mkdir("d"); os.chdir("d")
"""
ITS_FOLDER = """
import shutil
folder = os.getcwd(); shutil.rmtree(folder); os.symlink("/etc", folder)
"""
WHOLE_SCRATCH = """
import shutil
folder = os.path.dirname(os.getcwd()); shutil.rmtree(folder); os.symlink("/etc", folder)
"""
OTHER_OUTPUT = """
os.remove("../out"); os.symlink("/etc/hostname", "../out")
os.remove("../err"); os.mkfifo("../err")
"""
NO_RIGHTS = "os.chmod('..', 0)"


@pytest.mark.parametrize("what", [DEEP, ITS_FOLDER, WHOLE_SCRATCH, OTHER_OUTPUT, NO_RIGHTS])
def test_what_a_program_leaves_in_its_folder_decides_nothing(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where namespaces are to be had it can't write there at all.
    monkeypatch.setattr(sandbox, "_ISOLATE", False)
    assert run("import os\n" + what + "\nprint('\"a\"')") == ["a"]
    with pytest.raises(ProgramFailedError, match="it ended with status 1: no"):
        run("import os, sys\n" + what + "\nsys.exit('no')")
    assert Path("/etc/passwd").exists()


def test_a_program_runs_under_a_limit_of_memory_that_is_lower_than_its_own(tmp_path: Path) -> None:
    script = (
        "from tests.support.fresh_process import run_files\n"
        "from kilobit.evaluators.proof.sandbox import Limits\n"
        "from pathlib import Path\n"
        "lines = b'import json, resource; '"
        "b'print(json.dumps(str(resource.getrlimit(resource.RLIMIT_AS)[0])))'\n"
        "print(run_files(lines, b'', Path('m'), ['a'], Limits(60, memory_gb=32), fresh=True))\n"
    )
    words = ["bash", "-c", 'ulimit -v 16000000; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == f"['{16000000 * 1024}']\n", done.stderr


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("'\"a\"\\n' * 50_000_000", "it printed more than 1 outputs, one for each input"),
        ("'\"' + 'a' * 100_000_000", "line 1 of its output is longer than 1048576 bytes"),
    ],
)
def test_a_flood_of_output_is_read_no_further_than_needed(printed: str, expected: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ProgramFailedError, match=expected):
        run(f"print({printed})")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_half_a_surrogate_pair_is_no_output() -> None:
    with pytest.raises(ProgramFailedError, match="line 1 of its output is not a JSON string"):
        run(r"print(r'\"\ud800\"')")
