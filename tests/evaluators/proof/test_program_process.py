"""A program reaches nothing of a run and no other process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kilobit.evaluators.proof.sandbox import Limits, Sandbox, enforced
from tests.support.fresh_process import ECHO


def walk(name: str) -> str:
    return (
        f"[os.path.join(d, n) for d, _, names in os.walk('/', onerror=None) for n in names "
        f"if n == {name!r} and not d.startswith(('/proc', '/sys'))]"
    )


# What a program may try; each expression is true where it succeeds.
ATTEMPTS = {
    "find the recorded outputs on the disk": walk("examples.jsonl"),
    "find the manifest on the disk": walk("manifest-of-the-run.json"),
    "find files through other processes": "[p for p in glob.glob('/proc/*/cwd/*') + "
    "glob.glob('/proc/*/root/*') if 'examples.jsonl' in p or '/run.json' in p]",
    "see other processes": "[p for p in glob.glob('/proc/[0-9]*') "
    "if p.split('/')[2] not in ('1', str(os.getpid()))]",
    "read the memory of the first process": "open('/proc/1/mem', 'rb')",
    "end the first process": "(os.kill(1, 9), time.sleep(0.5), 0)[2]",
    "answer for the supervisor": "[os.write(fd, b'[0, 0, []]\\n') for fd in range(3, 40) "
    "if os.path.exists(f'/proc/self/fd/{fd}')][5]",
    "write beside the run": "(open(FOLDER + '/mark', 'w'), 0)[1]",
    "write to the root folder": "open('/mark', 'w')",
    "write to its own folder": "open('mark', 'w')",
    "change the model": "open(MODEL + '/config.json', 'a')",
    "make the model writable": "ctypes.CDLL(None, use_errno=True)"
    ".mount(None, MODEL.encode(), None, 4128, None) == 0",
    "plant code in the libraries": "open(json.__file__, 'a')",
    "leave the root folder": "os.chroot('.')",
    "become somebody else": "os.setuid(12345)",
    "get rights by another user namespace": "subprocess.run(['unshare', '-rm', 'umount', '-l', "
    "MODEL]).returncode == 0",
    "import our package": "(sys.meta_path.__delitem__(0), __import__('kilobit.search'))",
    "find our package on the disk": walk("program_builder.py"),
}


@pytest.fixture(scope="module", params=["fresh", "preloaded"])
def one(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(1, fresh=request.param == "fresh") as found:
        yield found


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_program_reaches_nothing_of_the_run(tmp_path: Path, attempt: str, one: Sandbox) -> None:
    if "files" not in enforced():
        pytest.skip("this user gets no mount namespace")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("examples.jsonl", "manifest-of-the-run.json", "run.json"):
        (tmp_path / name).write_text("x")
    script = f"""
import ctypes, glob, json, os, subprocess, sys, time
FOLDER, MODEL = {str(tmp_path)!r}, sys.argv[1]
try:
    done = bool({ATTEMPTS[attempt]})
except (OSError, ImportError, IndexError) as error:
    done = False
print(json.dumps("done" if done else "in vain"))
"""
    files = (script.encode(), b"", tmp_path / "model")
    assert one.run(*files, ["a"], Limits(seconds=60)) == ["in vain"]
    assert one.enforced == {"network", "processes", "files"}
    # The sandbox goes on with the next program.
    assert one.run(ECHO.encode(), *files[1:], ["a"], Limits(seconds=60)) == ["A"]
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    assert not (tmp_path / "mark").exists()
