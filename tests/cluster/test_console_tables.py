"""Whoever stops reading ends nothing, and texts from elsewhere steer no terminal."""

import subprocess
import sys

from kilobit.evaluators.proof.sandbox import plain
from tests.conftest import REPOSITORY

TALK = """
import sys
from kilobit.cluster.console import Terminal

terminal = Terminal()
for number in range(20_000):
    terminal.print(f"line {number}")
print("done", file=sys.stderr)
sys.exit(3)
"""


def test_a_reader_that_leaves_ends_nothing_and_changes_no_exit_status() -> None:
    command = f"'{sys.executable}' -c '{TALK}' | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert (done.stdout, done.stderr) == ("line 0\n3\n", "done\n")


def test_control_characters_are_replaced_and_lines_and_letters_stay() -> None:
    assert plain("a\x1b[31m\x07\r\u202e\ud800b") == "a\ufffd[31m\ufffd\ufffd\ufffd\ufffdb"
    assert plain("ä\n\t数 “x”") == "ä\n\t数 “x”"
