import subprocess
import sys

from tests.conftest import REPOSITORY


def test_who_asks_for_a_worker_by_name_loads_nothing_heavy() -> None:
    program = (
        "import sys, kilobit.cluster.driver.trial, kilobit.cluster.worker.actor; "
        "heavy = {'torch', 'transformers', 'kilobit.cluster.worker.evaluator'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "[]"
