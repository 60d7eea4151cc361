import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.support.worlds import drive, make


def test_optuna_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys\n"
        "import kilobit.cluster.sweep.sweep\n"
        "from kilobit.search.proposers.registry import make_proposer\n"
        "print('optuna' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "False\n"


def test_optuna_says_nothing(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    for kind in ("tpe", "nsga2"):
        drive(make(kind), 12)
    assert capfd.readouterr() == ("", "")
    assert not [str(w.message) for w in recwarn.list]
