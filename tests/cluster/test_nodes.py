import subprocess
import sys
from pathlib import Path

import launch
from cluster.nodes import PACKAGES, own_code
from tests.conftest import REPOSITORY

_AGAIN = """
from pathlib import Path
from cluster.nodes import own_code
with own_code() as folders:
    print(Path(folders[-1], "__init__.py").read_text(), end="")
"""


def test_code_that_has_travelled_travels_on() -> None:
    assert launch.__file__ is not None
    with own_code() as folders:
        assert [Path(folder).name for folder in folders] == [*PACKAGES, "launch"]
        path = [str(Path(folders[-1]).parent), str(REPOSITORY)]
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{_AGAIN}"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == Path(launch.__file__).read_text("utf-8")
