import subprocess
import sys
from pathlib import Path

from kilobit import launch
from kilobit.cluster.fleet.session import code_digest, own_code

_AGAIN = """
from pathlib import Path
from kilobit.cluster.fleet.session import code_digest, own_code
with own_code() as [folder]:
    print(code_digest(), Path(folder, "launch.py").read_text(), end="")
"""


def test_code_that_has_travelled_travels_on() -> None:
    assert launch.__file__ is not None
    with own_code() as [folder]:
        assert Path(folder).name == "kilobit"
        assert not [path for path in Path(folder).rglob("*") if path.is_symlink()]
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder[:-8]!r})\n{_AGAIN}"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{code_digest()} {Path(launch.__file__).read_text('utf-8')}"
